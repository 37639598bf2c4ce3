-- What stewards have decided on pairs, and which subjects no record is about any more.

-- The latest word on a pair; `together` is null where the rules decide again. The subjects may not be there yet.
CREATE TABLE steward_decisions (
    a bytea NOT NULL,
    b bytea NOT NULL,
    together boolean,
    steward text NOT NULL,
    decided_at timestamptz NOT NULL,
    PRIMARY KEY (a, b)
);

ALTER TABLE subjects ADD COLUMN retired boolean NOT NULL DEFAULT false;
CREATE INDEX records_subject ON records (subject) WHERE NOT retracted;

-- Why the partition does not follow a link, in place of whether.
ALTER TABLE edges ADD COLUMN guard text NOT NULL DEFAULT '';
UPDATE edges SET guard = 'the link would bring together what must not be one patient' WHERE guarded;
ALTER TABLE edges DROP COLUMN guarded;

-- The pairs that wait for a steward, the strongest first.
CREATE INDEX edges_doubtful ON edges (rank, (-weight), a, b) WHERE outcome = 'review' OR guard <> '';
