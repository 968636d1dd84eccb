-- Sentence elbow: mean distance of captions' sentences from their cluster's centre by number of clusters, and the number chosen (section 4.5 of AND).
-- There where stage polysemanticity ran with the setting elbow. Of each choice of parameters the latest run.
WITH latest AS (
    SELECT run_id, network, dataset, parameters FROM v_run WHERE stage = 'polysemanticity' AND is_latest
)
SELECT network, dataset, clusters, distance, is_chosen, parameters, run_id FROM sentence_elbow JOIN latest USING (run_id)
ORDER BY network, dataset, run_id, clusters;
