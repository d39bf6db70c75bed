-- When a shop's ($1) and mode's ($2) first account was opened or first transfer posted, and when the last transfer was.
SELECT least(min(opened_at), min(earliest.at), min(tail.first_at)) AS first_at, greatest(max(latest.at), max(tail.last_at)) AS last_at
  FROM account
  LEFT JOIN LATERAL (
      SELECT at FROM account_entry WHERE account_entry.account_id = account.account_id ORDER BY at LIMIT 1
  ) AS earliest ON true
  LEFT JOIN LATERAL (
      SELECT at FROM account_entry WHERE account_entry.account_id = account.account_id ORDER BY at DESC LIMIT 1
  ) AS latest ON true
  LEFT JOIN (
      SELECT account_id, min(at) AS first_at, max(at) AS last_at FROM entry_tail GROUP BY account_id
  ) AS tail ON tail.account_id = account.account_id
 WHERE shop_id = $1 AND mode = $2
