-- What has left a seller's pending account by releases, less what offsets brought back, is never more than what has matured
-- (and what came in otherwise); what has matured is the sum of its parts, and never more than what charges brought.
WITH parts AS (
    SELECT pending_id, sum(amount_minor) AS minor FROM maturing WHERE matured_at IS NOT NULL GROUP BY pending_id
), left_it AS (
    SELECT debit_account_id AS pending_id, sum(amount_minor) AS minor
      FROM transfer WHERE kind IN ('release', 'reserve') GROUP BY debit_account_id
), came AS (
    SELECT credit_account_id AS pending_id,
           coalesce(sum(amount_minor) FILTER (WHERE kind = 'charge' AND phase IN ('posted', 'captured')), 0) AS charged,
           coalesce(sum(amount_minor) FILTER (WHERE kind = 'offset'), 0) AS brought_back,
           coalesce(sum(amount_minor) FILTER (WHERE kind NOT IN ('charge', 'offset', 'refund_return')
                                                AND phase IN ('posted', 'captured')), 0) AS otherwise
      FROM transfer WHERE credit_account_id IN (SELECT pending_id FROM wallet) GROUP BY credit_account_id
)
SELECT w.pending_id, w.seller_account, w.currency, w.matured_minor, parts.minor AS parts_minor, came.charged AS charged_minor,
       left_it.minor AS released_minor, came.brought_back AS brought_back_minor
  FROM wallet AS w
  LEFT JOIN parts USING (pending_id) LEFT JOIN left_it USING (pending_id) LEFT JOIN came USING (pending_id)
 WHERE w.matured_minor <> coalesce(parts.minor, 0)
    OR w.matured_minor > coalesce(came.charged, 0)
    OR coalesce(left_it.minor, 0) - coalesce(came.brought_back, 0) > w.matured_minor + coalesce(came.otherwise, 0);
