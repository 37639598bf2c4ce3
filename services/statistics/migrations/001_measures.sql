-- Counts alone, by the day (UTC) on which they were counted. Rows are updated in place every second: hence the room.
CREATE TABLE measures (
    source text COLLATE "C" NOT NULL,
    day date NOT NULL,
    type text COLLATE "C" NOT NULL,     -- of the records; empty where it is not known
    measure text COLLATE "C" NOT NULL,  -- contracts/measures.py, or <step>.<verdict>
    count bigint NOT NULL,
    PRIMARY KEY (source, day, type, measure)
) WITH (fillfactor = 70);

-- Sources that were heard of, and when ingest took or refused something of theirs.
CREATE TABLE sources (
    source text COLLATE "C" PRIMARY KEY,
    first_seen timestamptz,
    last_seen timestamptz
) WITH (fillfactor = 70);

-- Reasons, flags and verdicts that were met, so that there are never more than so many.
CREATE TABLE words (word text COLLATE "C" PRIMARY KEY);

-- The last message of each process that counts.
CREATE TABLE writers (
    writer bytea PRIMARY KEY,
    number bigint NOT NULL,
    seen date NOT NULL
) WITH (fillfactor = 70);
