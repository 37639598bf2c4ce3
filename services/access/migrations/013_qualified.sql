-- Whether a patient's records give what the permit's population asks of them: a diagnosis, a record from its cohort, or both.
ALTER TABLE view_patients RENAME COLUMN diagnosed TO qualified;
