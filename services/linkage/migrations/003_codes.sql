-- The codes that a subject has under each of its tokens, so that a search brings what it compares.

ALTER TABLE subject_tokens ADD COLUMN codes bytea NOT NULL DEFAULT '';
ALTER TABLE subject_tokens ALTER COLUMN codes SET STORAGE PLAIN;
