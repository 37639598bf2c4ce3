-- Where an entry counts in its permit's cube, as it was released; NULL where the permit has none, or the entry no time.
ALTER TABLE view_entries ADD COLUMN period date, ADD COLUMN area text, ADD COLUMN diagnoses text[];
CREATE INDEX view_entries_by_period ON view_entries (permit, period) WHERE period IS NOT NULL;

-- A lasting random number of each patient. It gives the weight with which it counts; those of a cell's members, added up, decide
-- how the cell is rounded.
ALTER TABLE patients ADD COLUMN record_key bigint NOT NULL DEFAULT hashtextextended(gen_random_uuid()::text, 0);

-- Periods whose cells have to be counted again, noted by each batch that may have changed one.
-- `written` tells those that a count has seen from those that came while it was under way.
CREATE TABLE indicator_marks (
    permit text COLLATE "C" NOT NULL,
    period date NOT NULL,
    written xid8 NOT NULL DEFAULT pg_current_xact_id()
);
CREATE INDEX indicator_marks_by_permit ON indicator_marks (permit, period);

-- What was released last: the day, and the cells that are shown, as they are shown.
CREATE TABLE indicator_releases (permit text COLLATE "C" PRIMARY KEY, released date NOT NULL);
CREATE TABLE indicator_cells (
    permit text COLLATE "C" NOT NULL,
    period date NOT NULL,
    area text COLLATE "C" NOT NULL,             -- a department, `other`, or `` for everywhere
    diagnosis text COLLATE "C" NOT NULL,        -- a category of ICD-10, or `` for any record
    people integer NOT NULL,
    PRIMARY KEY (permit, period, area, diagnosis)
);
