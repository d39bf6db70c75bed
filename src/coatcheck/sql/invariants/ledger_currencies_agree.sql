-- Every transfer has the currency of both its accounts, and both belong to one shop and mode.
SELECT transfer_id, transfer.currency, debit.currency AS debit_currency, credit.currency AS credit_currency
FROM transfer
LEFT JOIN account AS debit ON debit.account_id = debit_account_id
LEFT JOIN account AS credit ON credit.account_id = credit_account_id
WHERE (debit.currency = transfer.currency AND credit.currency = transfer.currency
       AND debit.shop_id = credit.shop_id AND debit.mode = credit.mode) IS NOT TRUE
