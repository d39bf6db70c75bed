-- No account that must not be overdrawn is, counting what holds have reserved.
SELECT account_id, name, currency, debits_posted_minor, credits_posted_minor, debits_pending_minor,
       credits_pending_minor
FROM account JOIN account_kind USING (kind)
WHERE NOT may_overdraw AND CASE normal_side
          WHEN 'credit' THEN credits_posted_minor::numeric - debits_posted_minor - debits_pending_minor
          ELSE debits_posted_minor::numeric - credits_posted_minor - credits_pending_minor
      END < 0
