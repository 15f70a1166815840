-- How often a device usually reports; readings that were taken out of every answer, and who did it; devices that are gone.

-- Learned from the device's own readings (ingestor/usual_interval.py); null while there are too few.
ALTER TABLE meter_status ADD COLUMN usual_interval_seconds double precision;
ALTER TABLE vehicle_status ADD COLUMN usual_interval_seconds double precision;

-- One row for each time that somebody annulled readings of a device, in [from_ts, to_ts). Kept for good. `measures` are
-- the columns that the values in annulled_readings belong to. `last_updated` and `usual_interval_seconds` are those of
-- the device's status just before, for a restore that has to make the status again.
CREATE TABLE annulments (
    id                     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind                   text             NOT NULL,
    device_id              text COLLATE "C" NOT NULL,
    from_ts                timestamptz      NOT NULL,
    to_ts                  timestamptz      NOT NULL,
    reason                 text             NOT NULL,
    who                    text             NOT NULL,
    annulled_at            timestamptz      NOT NULL DEFAULT now(),
    measures               text[]           NOT NULL,
    readings               bigint           NOT NULL,
    restored               bigint           NOT NULL DEFAULT 0,
    restored_at            timestamptz,
    restored_by            text,
    last_updated           timestamptz,
    usual_interval_seconds double precision,
    CONSTRAINT annulments_not_empty CHECK (to_ts > from_ts),
    CONSTRAINT annulments_restored CHECK (restored BETWEEN 0 AND readings)
);
-- What each flush looks at: annulments with readings left that lie in the time of its own.
CREATE INDEX annulments_in_force ON annulments (to_ts, from_ts) WHERE restored < readings;
CREATE INDEX annulments_device ON annulments (kind, device_id, id);

-- The readings themselves, as they stood in the history: they left it, so that no query needs to leave them out.
-- A restore moves them back. The same reading of a device may be here more than once: annulled, corrected, annulled.
CREATE TABLE annulled_readings (
    annulment_id bigint             NOT NULL REFERENCES annulments (id),
    kind         text               NOT NULL,
    device_id    text COLLATE "C"   NOT NULL,
    ts           timestamptz        NOT NULL,
    numbers      double precision[] NOT NULL,
    ingested_at  timestamptz        NOT NULL,
    PRIMARY KEY (annulment_id, ts)
);
CREATE INDEX annulled_readings_device ON annulled_readings (kind, device_id, ts);

-- Devices that somebody has declared gone: they have no status until they send a reading again.
CREATE TABLE forgotten_devices (
    kind         text             NOT NULL,
    device_id    text COLLATE "C" NOT NULL,
    forgotten_at timestamptz      NOT NULL DEFAULT now(),
    who          text             NOT NULL,
    PRIMARY KEY (kind, device_id)
);
