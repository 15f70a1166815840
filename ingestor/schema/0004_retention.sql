-- How far retention has gone: all days before kept_from were due when it last finished. From there it goes two days on
-- at most without a person's yes, so that a wrong clock, or a slip in RETENTION_DAYS, does not drop the whole history.
CREATE TABLE retention_progress (
    only_row   boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
    kept_from  date        NOT NULL,
    decided_at timestamptz NOT NULL DEFAULT now()
);
