-- A message of quarantine that was replayed and refused again keeps its one row: when that was last.
ALTER TABLE rejected_messages ADD COLUMN refused_again_at timestamptz;
