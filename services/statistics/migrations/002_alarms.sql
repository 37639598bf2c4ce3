-- Alarms that stand, so that they outlive the process and the windows by which they were raised.
CREATE TABLE alarms (
    source text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    since timestamptz NOT NULL,
    expected double precision,
    seen bigint NOT NULL,
    PRIMARY KEY (source, kind)
);
