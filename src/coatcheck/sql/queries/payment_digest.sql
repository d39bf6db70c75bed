-- What a checkout's payment was asked for, if there is one.
SELECT request_digest FROM payment WHERE payment_id = $1;
