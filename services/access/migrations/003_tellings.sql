-- What each record tells about its subject, so that a correction replaces it and a retraction takes it back.
-- `subjects.demographics` follows from it: of each field what was accepted last.
ALTER TABLE history ADD COLUMN told jsonb NOT NULL DEFAULT '{}';
