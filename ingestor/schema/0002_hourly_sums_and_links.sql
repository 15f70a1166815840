-- Hourly sums, so that a fleet's day is read from 24 rows a device instead of 1,440; which meter feeds which vehicle;
-- what the HTTP side may do.

-- Sums over the readings of [hour, hour + 1 h). Right only where hourly_invalidations says nothing to the contrary.
-- The hour comes first: a roll appends, and a reader takes one stretch of the index.
CREATE TABLE meter_hourly (
    hour            timestamptz       NOT NULL,
    meter_id        text COLLATE "C"  NOT NULL,
    kwh_consumed_ac double precision  NOT NULL,
    readings        integer           NOT NULL,
    PRIMARY KEY (hour, meter_id)
);

CREATE TABLE vehicle_hourly (
    hour             timestamptz       NOT NULL,
    vehicle_id       text COLLATE "C"  NOT NULL,
    kwh_delivered_dc double precision  NOT NULL,
    battery_temp_sum double precision  NOT NULL,
    readings         integer           NOT NULL,
    PRIMARY KEY (hour, vehicle_id)
);

-- What the sums do not know yet: readings of an hour, of one device or (device_id null) of any. A flush adds rows in
-- its own transaction; the roller deletes those that it sees and sums anew. Never a unique key: an upsert would let a
-- flush lean on a row that the roller is just deleting, and its readings would be missing from the sums for ever.
CREATE TABLE hourly_invalidations (
    kind      text             NOT NULL CHECK (kind IN ('meter', 'vehicle')),
    hour      timestamptz      NOT NULL,
    device_id text COLLATE "C"
);
CREATE INDEX hourly_invalidations_hour ON hourly_invalidations (hour);

-- Readings that were there before the sums: every hour of every day that has a partition.
INSERT INTO hourly_invalidations (kind, hour)
SELECT history.kind, hour
FROM (VALUES ('meter', 'meter_readings_history'), ('vehicle', 'vehicle_readings_history')) AS history (kind, name)
JOIN pg_inherits ON inhparent = history.name::regclass
JOIN pg_class ON pg_class.oid = inhrelid
CROSS JOIN LATERAL regexp_match(pg_get_expr(relpartbound, pg_class.oid), $$FROM \('(.+)'\) TO \('(.+)'\)$$) AS bounds
CROSS JOIN LATERAL generate_series(
    bounds[1]::timestamptz, bounds[2]::timestamptz - interval '1 hour', interval '1 hour'
) AS hour;

-- Which meter feeds which vehicle, in [valid_from, valid_to). Neither has two partners at one time: the energy of a
-- meter would count twice.
CREATE EXTENSION IF NOT EXISTS btree_gist;
CREATE TABLE vehicle_meter_links (
    vehicle_id text COLLATE "C" NOT NULL,
    meter_id   text COLLATE "C" NOT NULL,
    valid_from timestamptz      NOT NULL,
    valid_to   timestamptz,
    PRIMARY KEY (vehicle_id, valid_from),
    CONSTRAINT vehicle_meter_links_not_empty CHECK (valid_to > valid_from),
    CONSTRAINT vehicle_meter_links_one_meter
        EXCLUDE USING gist (vehicle_id WITH =, tstzrange(valid_from, valid_to) WITH &&),
    CONSTRAINT vehicle_meter_links_one_vehicle
        EXCLUDE USING gist (meter_id WITH =, tstzrange(valid_from, valid_to) WITH &&)
);

-- The HTTP side becomes this role on every connection (SET ROLE): it reads, and writes the links only. A role belongs
-- to the whole server, so another database's migration may have made it. Where this user may not make roles, the API
-- keeps the rights of the user it connects as, and says so in its log; docs/operations.md has what to run by hand.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'wattline_api') THEN
        CREATE ROLE wattline_api NOLOGIN;
    END IF;
    IF NOT pg_has_role(current_user, 'wattline_api', 'MEMBER') THEN
        EXECUTE format('GRANT wattline_api TO %I', current_user);
    END IF;
    GRANT SELECT ON
        meter_readings_history, vehicle_readings_history, meter_status, vehicle_status, meter_hourly, vehicle_hourly,
        hourly_invalidations, vehicle_meter_links, schema_migrations
    TO wattline_api;
    GRANT INSERT, UPDATE, DELETE ON vehicle_meter_links TO wattline_api;
EXCEPTION
    WHEN insufficient_privilege THEN
        RAISE NOTICE 'this user may not create the role wattline_api';
    WHEN duplicate_object OR unique_violation THEN
        RAISE EXCEPTION 'another migration made the role wattline_api at the same moment; run this one again';
END $$;
