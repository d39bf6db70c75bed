-- A shop's ($1) and mode's ($2) transfers that count, from the moment $3 to before $4, by time, with their accounts.
SELECT transfer_id, transfer.kind, debit.name AS debit_name, debit.kind AS debit_kind, debit_kind.normal_side AS debit_side,
       credit.name AS credit_name, credit.kind AS credit_kind, credit_kind.normal_side AS credit_side, amount_minor,
       transfer.currency, subject_id, at
  FROM transfer
  JOIN account AS debit ON debit.account_id = debit_account_id
  JOIN account_kind AS debit_kind ON debit_kind.kind = debit.kind
  JOIN account AS credit ON credit.account_id = credit_account_id
  JOIN account_kind AS credit_kind ON credit_kind.kind = credit.kind
 WHERE debit.shop_id = $1 AND debit.mode = $2 AND phase IN ('posted', 'captured') AND at >= $3 AND at < $4
 ORDER BY at, transfer_id
