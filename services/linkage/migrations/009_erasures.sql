-- Whom officers have erased, as `contracts.messages.mark_of` keeps them. Their records' states have an empty subject.
CREATE TABLE erased (mark bytea PRIMARY KEY);

-- All records of a subject, the retracted ones too, and the states that others have replaced.
DROP INDEX records_subject;
CREATE INDEX records_subject ON records (subject);
CREATE INDEX record_states_subject ON record_states (subject);
