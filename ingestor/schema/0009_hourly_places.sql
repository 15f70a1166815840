-- Where the invalidation of a whole hour stands: on one server in one place, the empty text; on a Citus cluster in one
-- place of each shard, so that it is seen no sooner than the readings that it speaks of (docs/scaling.md). That of one
-- device stands beside its readings: its place is the device.
CREATE TABLE hourly_places (
    place text COLLATE "C" PRIMARY KEY
);
INSERT INTO hourly_places (place) VALUES ('');
ALTER TABLE hourly_invalidations ADD COLUMN place text COLLATE "C" NOT NULL DEFAULT '';
