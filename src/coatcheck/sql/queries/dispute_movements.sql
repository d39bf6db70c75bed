-- The money of disputes ($1), in the order in which it moved.
SELECT m.dispute_id, m.is_taken, m.gross_minor, m.fee_minor, m.currency::text AS currency, m.moved_at, m.booked_at,
       s.movement_id IS NOT NULL AS is_settled
  FROM dispute_movement AS m LEFT JOIN settled_movement AS s ON s.movement_id = m.movement_id
 WHERE m.dispute_id = ANY ($1::uuid[])
 ORDER BY m.dispute_id, m.moved_at, m.ordinal, m.is_taken DESC
