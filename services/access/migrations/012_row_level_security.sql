-- A second wall under what subscribers read (ADR 30): whatever a query asks for, their role sees the rows of the one permit whose
-- ticket its transaction holds, and without a ticket none. The owner of the tables is not held. The other two roles are named
-- after it, and an administrator makes them.

CREATE VIEW opposed AS                          -- what everybody objects to who does, or somebody does who may be the same person
    SELECT patient, withholds FROM subjects JOIN oppositions USING (subject)
    UNION SELECT s.patient, o.withholds FROM subjects s JOIN opposition_suspects x ON x.suspect = s.subject
    JOIN oppositions o ON o.subject = x.subject;

-- A permit's ticket is the digest of its wrapped key: who may not read permits cannot make one, and a closed permit has none.
CREATE INDEX permits_by_ticket ON permits (sha256(key)) WHERE key IS NOT NULL;
CREATE FUNCTION opened_permit() RETURNS text STABLE PARALLEL SAFE SECURITY DEFINER
BEGIN ATOMIC
    SELECT permit FROM permits WHERE sha256(key) = decode(current_setting('estuaire.ticket', true), 'hex')
        AND key IS NOT NULL AND state IN ('filling', 'open');
END;

-- What a page needs of rows that its reader may not see: of people of the view alone, and nothing but the answer.
CREATE FUNCTION qualified_in_view(patients text[], cohort text, of_rights text[], prefixes text[])
RETURNS TABLE (patient text)
STABLE SECURITY DEFINER
BEGIN ATOMIC
    SELECT asked.patient FROM unnest(patients) AS asked (patient)
        WHERE EXISTS (SELECT FROM view_entries e WHERE e.permit = (SELECT opened_permit()) AND e.patient = asked.patient)
        AND (cohort IS NULL OR EXISTS (SELECT FROM subjects s JOIN history USING (subject)
            WHERE s.patient = asked.patient AND NOT retracted AND source = cohort AND type <> ALL(of_rights)))
        AND (prefixes = '{}' OR EXISTS (SELECT FROM subjects s JOIN history USING (subject), unnest(diagnoses) AS code,
            unnest(prefixes) AS prefix WHERE s.patient = asked.patient AND NOT retracted AND starts_with(code, prefix)));
END;
CREATE FUNCTION opposed_in_view(patients text[]) RETURNS TABLE (patient text, withholds text)
STABLE SECURITY DEFINER
BEGIN ATOMIC
    SELECT o.patient, o.withholds FROM opposed o WHERE o.patient = ANY(patients)
        AND EXISTS (SELECT FROM view_entries e WHERE e.permit = (SELECT opened_permit()) AND e.patient = o.patient);
END;
REVOKE ALL ON FUNCTION opened_permit, qualified_in_view, opposed_in_view FROM PUBLIC;

ALTER TABLE view_entries ENABLE ROW LEVEL SECURITY;
ALTER TABLE view_patients ENABLE ROW LEVEL SECURITY;
ALTER TABLE indicator_cells ENABLE ROW LEVEL SECURITY;
ALTER TABLE indicator_releases ENABLE ROW LEVEL SECURITY;
ALTER TABLE history ENABLE ROW LEVEL SECURITY;
ALTER TABLE subjects ENABLE ROW LEVEL SECURITY;

DO $$
BEGIN
    EXECUTE format($rights$
        GRANT EXECUTE ON FUNCTION opened_permit, qualified_in_view, opposed_in_view TO %1$I;
        GRANT SELECT (permit, event_id, patient, sequence) ON view_entries TO %1$I;
        GRANT SELECT (permit, patient, subject) ON view_patients TO %1$I;
        GRANT SELECT ON indicator_cells, indicator_releases TO %1$I;
        GRANT SELECT (event_id, subject, revision, type, source, time, retracted, dated, body) ON history TO %1$I;
        GRANT SELECT (subject, patient, key, demographics) ON subjects TO %1$I;
        CREATE POLICY subscriber ON view_entries FOR SELECT TO %1$I USING (permit = (SELECT opened_permit()));
        CREATE POLICY subscriber ON view_patients FOR SELECT TO %1$I USING (permit = (SELECT opened_permit()));
        CREATE POLICY subscriber ON indicator_cells FOR SELECT TO %1$I USING (permit = (SELECT opened_permit()));
        CREATE POLICY subscriber ON indicator_releases FOR SELECT TO %1$I USING (permit = (SELECT opened_permit()));
        CREATE POLICY subscriber ON history FOR SELECT TO %1$I
            USING (EXISTS (SELECT FROM view_entries e WHERE e.event_id = history.event_id));  -- of those that it sees
        CREATE POLICY subscriber ON subjects FOR SELECT TO %1$I
            USING (EXISTS (SELECT FROM view_entries e WHERE e.patient = subjects.patient));

        GRANT SELECT ON permits, permit_scans, project_steps, opposed, oppositions, requests, request_acts TO %2$I;
        GRANT SELECT ON view_entries, view_patients, history, subjects TO %2$I;
        CREATE POLICY staff ON view_entries FOR SELECT TO %2$I USING (true);
        CREATE POLICY staff ON view_patients FOR SELECT TO %2$I USING (true);
        CREATE POLICY staff ON history FOR SELECT TO %2$I USING (true);
        CREATE POLICY staff ON subjects FOR SELECT TO %2$I USING (true);
    $rights$, current_user || '_subscriber', current_user || '_staff');
END $$;
