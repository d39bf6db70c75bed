-- Write an audit event that changes nothing else. $1 subject_id, $2 event_id, $3 kind, $4 shop_id, $5 mode, $6 at, $7 body
INSERT INTO event (subject_id, event_id, kind, shop_id, mode, at, body) VALUES ($1, $2, $3, $4, $5, $6, $7::json)
