-- Partitions without the right to create tables: the ingestor's user may call this function, and nothing else of the sort.

-- Makes one day of a history, runs as the owner of the tables (SECURITY DEFINER), and does nothing a caller could turn
-- to another purpose: no name comes from outside, none is looked up in a search path, and what already has the name of
-- that day is attached only where it belongs to the history's owner. False: `history` is none of this owner's. The
-- caller holds the advisory lock of partitions (ingestor/schema/partitions.py, which also has the reasons for each step).
CREATE FUNCTION make_day_partition(history regclass, day date) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    tables record;
    place text;
    standing record;
BEGIN
    SELECT n.nspname AS schema, h.relname AS history, h.relowner AS owner, h.relnamespace AS schema_id
    INTO tables
    FROM pg_class h JOIN pg_namespace n ON n.oid = h.relnamespace
    WHERE h.oid = make_day_partition.history AND h.relkind = 'p' AND h.relname ~ '_readings_history$'
        AND pg_has_role(current_user, h.relowner, 'USAGE')
        AND day BETWEEN '0001-01-01' AND '9999-12-30';
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    place := format('%I.%I', tables.schema, tables.history || '_p' || to_char(day::timestamp, 'YYYYMMDD'));

    SELECT c.relowner = tables.owner AS is_ours, i.inhparent AS parent, i.inhdetachpending AS is_leaving
    INTO standing
    FROM pg_class c LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
    WHERE c.relnamespace = tables.schema_id AND c.relname = tables.history || '_p' || to_char(day::timestamp, 'YYYYMMDD');
    IF NOT FOUND THEN
        -- Vacuum after 20,000 new rows (two minutes of the reference load, 3 ms each time) keeps index-only scans from
        -- visiting the table. Rows never change, so they are frozen on that occasion: 1.3 % more WAL once.
        EXECUTE format('CREATE TABLE %s (LIKE %s INCLUDING DEFAULTS INCLUDING CONSTRAINTS) WITH ('
            'autovacuum_vacuum_insert_threshold = 20000, autovacuum_vacuum_insert_scale_factor = 0, '
            'autovacuum_freeze_min_age = 0)', place, history);
    ELSIF NOT standing.is_ours OR standing.parent <> history THEN
        RETURN false;
    ELSIF standing.parent = history AND NOT standing.is_leaving THEN
        RETURN true;
    ELSE
        IF standing.is_leaving THEN
            EXECUTE format('ALTER TABLE %s DETACH PARTITION %s FINALIZE', history, place);
        END IF;
        EXECUTE format('COMMENT ON TABLE %s IS NULL', place); -- it may be marked as past its retention
    END IF;
    -- Takes SHARE UPDATE EXCLUSIVE on the history, where CREATE TABLE ... PARTITION OF takes ACCESS EXCLUSIVE.
    EXECUTE format('ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM (%L) TO (%L)', history, place,
        to_char(day::timestamp, 'YYYY-MM-DD') || ' 00:00:00+00', to_char(day::timestamp + interval '1 day', 'YYYY-MM-DD') || ' 00:00:00+00');
    RETURN true;
END $$;
REVOKE EXECUTE ON FUNCTION make_day_partition(regclass, date) FROM PUBLIC;

-- VACUUM by hand is its owner's (and, from PostgreSQL 17 on, of who may MAINTAIN the table): a flood of refused messages
-- leaves some hundred MB of deleted rows, whose room is to be used again before a fifth of the table has changed.
ALTER TABLE rejected_messages SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);
