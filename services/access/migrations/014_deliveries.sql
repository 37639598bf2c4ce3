-- What a view is to get at its next delivery; of which records, and not what they say.
CREATE TABLE view_pending (
    permit text COLLATE "C" NOT NULL,
    event_id bytea NOT NULL,
    since timestamptz NOT NULL,
    PRIMARY KEY (permit, event_id)
);
CREATE INDEX view_pending_by_time ON view_pending (permit, since);
DO $$
BEGIN
    EXECUTE format('GRANT SELECT ON view_pending TO %I', current_user || '_staff');
END $$;
