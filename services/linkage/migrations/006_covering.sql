-- A search reads the index alone: there the codes of everybody under one token lie side by side, where the table has
-- them in the order of arrival, a page each. PostgreSQL does so where a table's pages are vacuumed, hence the scale.

ALTER TABLE subject_tokens DROP CONSTRAINT subject_tokens_pkey;
ALTER TABLE subject_tokens ADD PRIMARY KEY (token, subject) INCLUDE (codes);

DO $$
BEGIN
    FOR number IN 0..7 LOOP
        EXECUTE format(
            'ALTER TABLE %I SET (fillfactor = 100, autovacuum_vacuum_insert_scale_factor = 0.02)',
            'subject_tokens_' || number);
    END LOOP;
END
$$;
