-- The kinds of readings are declared in one place, telemetry/kinds.py: a list of them here would refuse the next one.
-- Nobody reads this table but the program that declares them.
-- squawk-ignore ban-drop-constraint
ALTER TABLE hourly_invalidations DROP CONSTRAINT hourly_invalidations_kind_check;
