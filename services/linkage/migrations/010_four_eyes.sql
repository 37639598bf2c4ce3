-- What each steward has said of a pair, and the second of a decision that took two.

ALTER TABLE steward_decisions ADD COLUMN second text NOT NULL DEFAULT '';

-- The last word of each steward on a pair (`domain/opinions.py`). `alone`: it needed no second. `waits`: for one who says
-- the same. An erasure of a subject takes them along.
CREATE TABLE steward_opinions (
    a bytea NOT NULL REFERENCES subjects ON DELETE CASCADE,
    b bytea NOT NULL REFERENCES subjects ON DELETE CASCADE,
    steward text NOT NULL,
    says text NOT NULL,
    said_at timestamptz NOT NULL,
    alone boolean NOT NULL,
    waits boolean NOT NULL,
    PRIMARY KEY (a, b, steward)
);
CREATE INDEX steward_opinions_b ON steward_opinions (b);
CREATE INDEX steward_opinions_by ON steward_opinions (steward, said_at);
CREATE INDEX steward_opinions_waiting ON steward_opinions (a, b) WHERE waits;

INSERT INTO steward_opinions (a, b, steward, says, said_at, alone, waits)
SELECT d.a, d.b, d.steward,
    CASE WHEN d.together THEN 'together' WHEN NOT d.together THEN 'apart' ELSE 'as-the-rules-say' END,
    d.decided_at, true, false
FROM steward_decisions d JOIN subjects l ON l.subject = d.a JOIN subjects r ON r.subject = d.b;
