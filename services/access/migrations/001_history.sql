-- Each record once, whoever its patient is. Large tables are partitioned by hash, so that they can be spread.

-- One row to lock for each patient: whatever touches a patient's subjects or entries holds it.
CREATE TABLE patients (patient text COLLATE "C" PRIMARY KEY);

-- A record belongs to a subject for ever; which patient that subject is comes from patient-links.
CREATE TABLE subjects (
    subject bytea PRIMARY KEY,
    patient text COLLATE "C" NOT NULL,
    link_version bigint NOT NULL,
    key bytea,                                  -- wrapped under the master secret; NULL once erased
    demographics jsonb NOT NULL DEFAULT '{}'    -- {"sex": ["female", "<revision that said so>"], ...}
) WITH (fillfactor = 70);
CREATE INDEX subjects_by_patient ON subjects (patient);

-- The highest revision of each record. `body` is sealed under the subject's key; a retraction has none.
CREATE TABLE history (
    event_id bytea NOT NULL PRIMARY KEY,
    subject bytea NOT NULL,
    revision text COLLATE "C" NOT NULL,
    type text NOT NULL,
    source text NOT NULL,
    time timestamptz NOT NULL,
    schema_version smallint NOT NULL,
    diagnoses text[] NOT NULL,                  -- codes that population predicates may use
    retracted boolean NOT NULL,
    stored_at timestamptz NOT NULL DEFAULT now(),
    body bytea
) PARTITION BY HASH (event_id);

CREATE TABLE permits (
    permit text COLLATE "C" PRIMARY KEY,
    definition bytea,
    granted text,
    key bytea,                                  -- wrapped under the master secret; NULL before it came, and once closed
    state text NOT NULL
);

-- Shards of the history that a new view still has to go through.
CREATE TABLE permit_scans (
    permit text COLLATE "C" NOT NULL,
    shard integer NOT NULL,
    PRIMARY KEY (permit, shard)
);

-- A patient in a view: its id there, how it was last seen, and the last sequence number given out.
CREATE TABLE view_patients (
    permit text COLLATE "C" NOT NULL,
    patient text COLLATE "C" NOT NULL,
    subject text COLLATE "C" NOT NULL,
    sequence bigint NOT NULL,
    diagnosed boolean NOT NULL,
    digest bytea NOT NULL,
    PRIMARY KEY (permit, patient)
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX view_patients_by_subject ON view_patients (permit, subject);

-- What each view holds. `version` is a digest of all that the entry's content depends on.
CREATE TABLE view_entries (
    permit text COLLATE "C" NOT NULL,
    event_id bytea NOT NULL,
    patient text COLLATE "C" NOT NULL,
    version bytea NOT NULL,
    sequence bigint NOT NULL,
    PRIMARY KEY (permit, event_id)
) PARTITION BY HASH (event_id);

DO $$
BEGIN
    FOR part IN 0..7 LOOP
        EXECUTE format('CREATE TABLE history_%s PARTITION OF history FOR VALUES WITH (MODULUS 8, REMAINDER %s)', part, part);
        EXECUTE format('CREATE TABLE view_entries_%s PARTITION OF view_entries FOR VALUES WITH (MODULUS 8, REMAINDER %s)', part, part);
        EXECUTE format('ALTER TABLE history_%s ALTER body SET STORAGE EXTERNAL', part);
    END LOOP;
END $$;
CREATE INDEX history_by_subject ON history (subject);
CREATE INDEX view_entries_by_patient ON view_entries (permit, patient);
