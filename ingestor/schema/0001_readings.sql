-- Readings, newest status, quarantine: the tables that people query.
--
-- Ids compare by bytes (COLLATE "C"): the order is the same on every machine, and Python sorts the same way.
-- Each primary key also carries what the 24-hour analytics read, so that they are answered from the index alone.
-- Nothing in any upsert may call a function in DO UPDATE SET but take its value from excluded (Citus refuses it).

CREATE TABLE meter_readings_history (
    meter_id        text COLLATE "C"  NOT NULL,
    ts              timestamptz       NOT NULL,
    kwh_consumed_ac double precision  NOT NULL,
    voltage         double precision  NOT NULL,
    ingested_at     timestamptz       NOT NULL DEFAULT now(),
    PRIMARY KEY (meter_id, ts) INCLUDE (kwh_consumed_ac)
) PARTITION BY RANGE (ts);

CREATE TABLE vehicle_readings_history (
    vehicle_id       text COLLATE "C"  NOT NULL,
    ts               timestamptz       NOT NULL,
    soc              double precision  NOT NULL,
    kwh_delivered_dc double precision  NOT NULL,
    battery_temp     double precision  NOT NULL,
    ingested_at      timestamptz       NOT NULL DEFAULT now(),
    PRIMARY KEY (vehicle_id, ts) INCLUDE (kwh_delivered_dc, battery_temp)
) PARTITION BY RANGE (ts);

-- An hour's rows across all devices: a few pages a day for data that arrives in the order of its time.
CREATE INDEX meter_readings_history_ts ON meter_readings_history USING brin (ts) WITH (autosummarize = on);
CREATE INDEX vehicle_readings_history_ts ON vehicle_readings_history USING brin (ts) WITH (autosummarize = on);

-- One row a device, updated all the time: room in each page keeps the updates HOT (no index is touched).
CREATE TABLE meter_status (
    meter_id        text COLLATE "C"  PRIMARY KEY,
    kwh_consumed_ac double precision  NOT NULL,
    voltage         double precision  NOT NULL,
    last_reading    timestamptz       NOT NULL,
    last_updated    timestamptz       NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);

CREATE TABLE vehicle_status (
    vehicle_id       text COLLATE "C"  PRIMARY KEY,
    soc              double precision  NOT NULL,
    kwh_delivered_dc double precision  NOT NULL,
    battery_temp     double precision  NOT NULL,
    last_reading     timestamptz       NOT NULL,
    last_updated     timestamptz       NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);

CREATE TABLE rejected_messages (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    received_at timestamptz NOT NULL,
    topic       text        NOT NULL,
    payload     bytea       NOT NULL,
    reason_code text        NOT NULL,
    reason      text        NOT NULL,
    replayed_at timestamptz
);
CREATE INDEX rejected_messages_received_at ON rejected_messages (received_at);
-- Finds the first copy of a refusal that the broker delivers again.
CREATE INDEX rejected_messages_same ON rejected_messages (topic, md5(payload));

-- The topic filters that each client id has subscribed at the broker, so that one whose share group changed can
-- unsubscribe its old filter: the broker's session keeps it otherwise, and every reading comes twice.
CREATE TABLE mqtt_subscriptions (
    client_id text NOT NULL,
    filter    text NOT NULL,
    PRIMARY KEY (client_id, filter)
);
