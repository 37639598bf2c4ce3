-- What an older database has to go beyond: the sequence numbers that it had given out before it was restored, which subscribers
-- know. `begun` is where a patient's numbers begin, so that `sequence - begun` is how many there were.
CREATE TABLE view_floor (floor bigint NOT NULL);
INSERT INTO view_floor VALUES (0);
ALTER TABLE view_patients ADD COLUMN begun bigint NOT NULL DEFAULT 0;
