-- Sentence clusters: what the captions' sentences are about, with their most distinctive words (Table 8), and how many neurons each joins.
-- neurons counts those whose k top clips (five, where the run looked at so many, else its least number) share the cluster in at least four
-- fifths. Latest run each.
WITH latest AS (
    SELECT run_id, parameters::JSON ->> 'network' AS network, parameters::JSON ->> 'dataset' AS dataset FROM run
    WHERE stage = 'polysemanticity' AND status = 'done'
    QUALIFY run_id = max(run_id) OVER (PARTITION BY network, dataset)
)
SELECT network, dataset, cluster, sentences, words,
       (SELECT count(*) FROM polysemanticity AS p WHERE p.run_id = c.run_id AND p.cluster = c.cluster AND shared >= 0.8 * k - 1e-9
        AND k = (SELECT arg_min(k, abs(k - 5)) FROM polysemanticity AS q WHERE q.run_id = c.run_id)) AS neurons, run_id
FROM sentence_cluster AS c JOIN latest USING (run_id)
ORDER BY network, dataset, cluster;
