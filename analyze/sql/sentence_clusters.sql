-- Sentence clusters: what the captions' sentences are about, with their most distinctive words (Table 8), and how many neurons each joins.
-- captions and sentences are the counts beside the clouds there (captions NULL for runs before version 6); sentence_cluster_words has the clouds'
-- words. neurons counts those whose five top clips share the cluster in at least four. Latest run each.
WITH latest AS (
    SELECT run_id, parameters::JSON ->> 'network' AS network, parameters::JSON ->> 'dataset' AS dataset FROM run
    WHERE stage = 'polysemanticity' AND status = 'done'
    QUALIFY run_id = max(run_id) OVER (PARTITION BY network, dataset)
)
SELECT network, dataset, cluster, captions, sentences, words,
       (SELECT count(*) FROM polysemanticity AS p WHERE p.run_id = c.run_id AND p.cluster = c.cluster AND k = 5 AND shared >= 4) AS neurons, run_id
FROM sentence_cluster AS c JOIN latest USING (run_id)
ORDER BY network, dataset, cluster;
