-- Measures of specificity: how far each two agree over all pairs of neurons and classes. Latest run each.
WITH latest AS (
    SELECT run_id, parameters::JSON ->> 'network' AS network, parameters::JSON ->> 'dataset' AS dataset FROM run
    WHERE stage = 'specificity' AND status = 'done'
    QUALIFY run_id = max(run_id) OVER (PARTITION BY network, dataset)
)
SELECT network, dataset, label_set.name AS label_set, first, second, pairs, spearman, top_jaccard, run_id
FROM measure_agreement JOIN latest USING (run_id) JOIN label_set USING (label_set_id)
ORDER BY network, dataset, label_set, spearman DESC;
