-- Whether a record's time was stated; otherwise it is the moment of arrival, which says nothing of when it happened.
ALTER TABLE history ADD COLUMN dated boolean NOT NULL DEFAULT true;
