-- Quarantine is never in the way of readings: nothing that a device sent is in an index any more. A topic of some
-- thousand characters does not fit into one, and would refuse the whole batch.

DROP INDEX rejected_messages_same;

-- What is kept may be cut; these say how long it was, and which it was: SHA-256 of the topic, a NUL and the payload, as
-- they came. Null in rows from before, where that is not known.
ALTER TABLE rejected_messages
    ADD COLUMN topic_bytes   integer,
    ADD COLUMN payload_bytes integer,
    ADD COLUMN sha256        bytea;

-- Until now payloads were cut to 65,536 bytes; one of just that length was cut, but for the odd chance.
UPDATE rejected_messages
SET topic_bytes = octet_length(topic),
    payload_bytes = octet_length(payload),
    sha256 = sha256(convert_to(topic, 'UTF8') || '\x00'::bytea || payload)
WHERE octet_length(payload) < 65536;

-- Finds the first copy of a refusal that the broker delivers again.
CREATE INDEX rejected_messages_sha256 ON rejected_messages (sha256);

-- What goes first when there is too much: what is no reading at all, the oldest before the others.
CREATE INDEX rejected_messages_nonsense ON rejected_messages (id)
    WHERE reason_code NOT IN ('clock_skew', 'too_old', 'database_refused', 'conflict');
