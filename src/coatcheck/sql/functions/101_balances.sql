-- Balances at past moments. A mark is a moment; the snapshots of a mark hold what all transfers before it come to. So a
-- balance at any moment is the last snapshot before it and the few transfers since, found by their time.
--
-- A transfer has its time from the clock of a gateway, before its commit, and could come after the mark that should have it.
-- So a mark is only made some time afterwards, and nothing rests on that: a reader adds up the whole account in the same
-- look, and where snapshots and counters do not agree, he adds up the transfers alone.

-- What the sellers' accounts held at every mark, of transfers alone: what the snapshots should be. NULL: all accounts.
CREATE OR REPLACE FUNCTION balance_history(wanted uuid[])
RETURNS TABLE (account_id uuid, at timestamptz, debits_posted_minor bigint, credits_posted_minor bigint,
               debits_pending_minor bigint, returned_minor bigint)
LANGUAGE sql STABLE
SET search_path = pg_catalog, public, pg_temp
AS $$
    WITH mark AS MATERIALIZED (
        SELECT coalesce(array_agg(m.at ORDER BY m.at), '{}') AS ats FROM balance_mark AS m
    ), moved AS (
        SELECT v.account_id, mark.ats[width_bucket(v.at, mark.ats) + 1] AS at,
               sum(v.debits_posted_minor) AS debits_posted, sum(v.credits_posted_minor) AS credits_posted,
               sum(v.debits_pending_minor) AS debits_pending, sum(v.returned_minor) AS returned
          FROM mark, account_movement AS v JOIN wallet_account AS a ON a.account_id = v.account_id
         WHERE mark.ats <> '{}' AND v.at < mark.ats[cardinality(mark.ats)]
           AND (wanted IS NULL OR v.account_id = ANY (wanted))
         GROUP BY 1, 2
    )
    SELECT m.account_id, m.at, (sum(m.debits_posted) OVER so_far)::bigint, (sum(m.credits_posted) OVER so_far)::bigint,
           (sum(m.debits_pending) OVER so_far)::bigint, (sum(m.returned) OVER so_far)::bigint
      FROM moved AS m
    WINDOW so_far AS (PARTITION BY m.account_id ORDER BY m.at);
$$;

-- Of these accounts, those whose last snapshot and the transfers since do not come to their counters.
CREATE OR REPLACE FUNCTION unproven_accounts(wanted uuid[]) RETURNS TABLE (account_id uuid)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, public, pg_temp
SET enable_seqscan = off
AS $$
#variable_conflict use_column
DECLARE
    last CONSTANT timestamptz := coalesce((SELECT max(m.at) FROM balance_mark AS m), '-infinity');
BEGIN
    RETURN QUERY
    SELECT a.account_id
      FROM wallet_account AS a
      LEFT JOIN LATERAL (SELECT * FROM balance_snapshot AS s WHERE s.account_id = a.account_id
                          ORDER BY s.at DESC LIMIT 1) AS s ON true
      LEFT JOIN (
           SELECT v.account_id, sum(v.debits_posted_minor) AS debits_posted, sum(v.credits_posted_minor) AS credits_posted,
                  sum(v.debits_pending_minor) AS debits_pending
             FROM account_movement AS v
            WHERE v.at >= last AND v.account_id = ANY (wanted)
            GROUP BY v.account_id
      ) AS since ON since.account_id = a.account_id
     WHERE a.account_id = ANY (wanted)
       AND (a.debits_posted_minor, a.credits_posted_minor, a.debits_pending_minor)
           <> (coalesce(s.debits_posted_minor, 0) + coalesce(since.debits_posted, 0),
               coalesce(s.credits_posted_minor, 0) + coalesce(since.credits_posted, 0),
               coalesce(s.debits_pending_minor, 0) + coalesce(since.debits_pending, 0));
END;
$$;

-- Make the next mark, at least `lag` ago: when `most` transfers have come since the last one, or `every` has passed. Returns
-- how many transfers it is made of; 0 when none was made. One process at a time.
CREATE OR REPLACE FUNCTION mark_balances(at timestamptz, lag interval, every interval, most integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
SET enable_seqscan = off
AS $$
DECLARE
    horizon CONSTANT timestamptz := mark_balances.at - mark_balances.lag;
    last timestamptz;
    upto timestamptz;
    counted integer;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('coatcheck maturing: balance marks', 0)) THEN
        RETURN 0;
    END IF;
    last := coalesce((SELECT max(m.at) FROM balance_mark AS m), '-infinity');
    SELECT count(*), max(n.at) INTO counted, upto
      FROM (SELECT t.at FROM transfer AS t WHERE t.at >= last AND t.at < horizon LIMIT most) AS n;
    IF counted = 0 OR counted < most AND last > horizon - every THEN
        RETURN 0;
    END IF;
    upto := CASE WHEN counted < most THEN horizon ELSE upto + interval '1 microsecond' END;

    INSERT INTO balance_snapshot (account_id, at, debits_posted_minor, credits_posted_minor, debits_pending_minor,
                                  returned_minor)
    SELECT v.account_id, upto, coalesce(s.debits_posted_minor, 0) + v.debits_posted,
           coalesce(s.credits_posted_minor, 0) + v.credits_posted, coalesce(s.debits_pending_minor, 0) + v.debits_pending,
           coalesce(s.returned_minor, 0) + v.returned
      FROM (SELECT m.account_id, sum(m.debits_posted_minor)::bigint AS debits_posted,
                   sum(m.credits_posted_minor)::bigint AS credits_posted,
                   sum(m.debits_pending_minor)::bigint AS debits_pending, sum(m.returned_minor)::bigint AS returned
              FROM account_movement AS m WHERE m.at >= last AND m.at < upto
             GROUP BY m.account_id) AS v
      JOIN wallet_account AS a ON a.account_id = v.account_id
      LEFT JOIN LATERAL (SELECT * FROM balance_snapshot AS s WHERE s.account_id = v.account_id
                          ORDER BY s.at DESC LIMIT 1) AS s ON true;
    SELECT count(*) INTO counted FROM transfer AS t WHERE t.at >= last AND t.at < upto;
    INSERT INTO balance_mark (at, transfers, is_checked) VALUES (upto, counted, false);
    RETURN counted;
END;
$$;

-- Once in `every`, complete the index by time where autovacuum has left something out, compare all accounts with their counters, and make the snapshots again of those that a late transfer has
-- left behind. Returns how many that were. It reads all transfers when there are any. One process at a time. A vacuum that
-- runs is not waited for.
CREATE OR REPLACE FUNCTION mend_balances(every interval) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
SET lock_timeout = '1s'
AS $$
DECLARE
    last timestamptz;
    behind uuid[];
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('coatcheck maturing: balance marks', 0)) THEN
        RETURN 0;
    END IF;
    last := (SELECT max(m.at) FROM balance_mark AS m);
    IF EXISTS (SELECT FROM balance_mark AS m WHERE m.is_checked AND m.at > last - every) THEN
        RETURN 0;
    END IF;
    BEGIN
        PERFORM brin_summarize_new_values('public.transfer_by_time');
    EXCEPTION WHEN lock_not_available THEN
        NULL;
    END;
    IF last IS NULL THEN
        RETURN 0;
    END IF;
    behind := ARRAY(SELECT u.account_id FROM unproven_accounts(ARRAY(
        SELECT a.account_id FROM wallet_account AS a)) AS u);
    IF behind <> '{}' THEN
        DELETE FROM balance_snapshot AS s WHERE s.account_id = ANY (behind);
        INSERT INTO balance_snapshot (account_id, at, debits_posted_minor, credits_posted_minor, debits_pending_minor,
                                      returned_minor)
        SELECT h.account_id, h.at, h.debits_posted_minor, h.credits_posted_minor, h.debits_pending_minor, h.returned_minor
          FROM balance_history(behind) AS h;
    END IF;
    UPDATE balance_mark AS m SET is_checked = true WHERE m.at = last;
    RETURN cardinality(behind);
END;
$$;

-- Accounts' counters as they were at a moment: of all transfers whose time is not after it. `is_proven`: the snapshots
-- that this rests on are whole; else it is to be asked again without marks, which reads every transfer up to the moment.
CREATE OR REPLACE FUNCTION balances_at(wanted uuid[], moment timestamptz, by_marks boolean)
RETURNS TABLE (account_id uuid, debits_posted_minor bigint, credits_posted_minor bigint, debits_pending_minor bigint,
               is_proven boolean)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, public, pg_temp
SET enable_seqscan = off
AS $$
#variable_conflict use_column
DECLARE
    mark timestamptz := '-infinity';
    behind uuid[] := '{}';
BEGIN
    IF by_marks THEN
        mark := coalesce((SELECT max(m.at) FROM balance_mark AS m WHERE m.at <= moment), '-infinity');
        behind := ARRAY(SELECT u.account_id FROM unproven_accounts(wanted) AS u);
    END IF;
    RETURN QUERY
    SELECT a.account_id,
           (coalesce(s.debits_posted_minor, 0) + coalesce(since.debits_posted, 0))::bigint,
           (coalesce(s.credits_posted_minor, 0) + coalesce(since.credits_posted, 0))::bigint,
           (coalesce(s.debits_pending_minor, 0) + coalesce(since.debits_pending, 0))::bigint,
           a.account_id <> ALL (behind)
      FROM unnest(wanted) AS a (account_id)
      LEFT JOIN LATERAL (SELECT * FROM balance_snapshot AS s WHERE s.account_id = a.account_id AND s.at <= mark
                          ORDER BY s.at DESC LIMIT 1) AS s ON true
      LEFT JOIN (
           SELECT v.account_id, sum(v.debits_posted_minor) AS debits_posted, sum(v.credits_posted_minor) AS credits_posted,
                  sum(v.debits_pending_minor) AS debits_pending
             FROM account_movement AS v
            WHERE v.at >= mark AND v.at <= moment AND v.account_id = ANY (wanted)
            GROUP BY v.account_id
      ) AS since ON since.account_id = a.account_id;
END;
$$;

REVOKE ALL ON FUNCTION balance_history, unproven_accounts, mark_balances, mend_balances, balances_at FROM PUBLIC;
GRANT EXECUTE ON FUNCTION balance_history, unproven_accounts, mark_balances, mend_balances,
    balances_at TO coatcheck_app;
