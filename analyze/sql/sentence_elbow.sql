-- Sentence elbow: mean distance of captions' sentences from their cluster's centre by number of clusters, and the number chosen (section 4.5 of AND).
-- There where stage polysemanticity ran with the setting elbow. Latest such run each.
WITH latest AS (
    SELECT run_id, parameters::JSON ->> 'network' AS network, parameters::JSON ->> 'dataset' AS dataset FROM run
    WHERE stage = 'polysemanticity' AND status = 'done' AND parameters::JSON ->> 'elbow' IS NOT NULL
    QUALIFY run_id = max(run_id) OVER (PARTITION BY network, dataset)
)
SELECT network, dataset, clusters, distance, is_chosen, run_id FROM sentence_elbow JOIN latest USING (run_id) ORDER BY network, dataset, clusters;
