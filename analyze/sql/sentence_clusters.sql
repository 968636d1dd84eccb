-- Sentence clusters: what the captions' sentences are about, with their most distinctive words (Table 8), and how many neurons each joins.
-- captions and sentences are the counts beside the clouds there (captions NULL for runs before version 6); sentence_cluster_words has the clouds'
-- words. neurons counts those whose k top clips (five, where the run looked at so many, else its least number) share the cluster in at least four
-- fifths. Of each choice of parameters the latest run.
WITH latest AS (
    SELECT run_id, network, dataset, parameters FROM v_run WHERE stage = 'polysemanticity' AND is_latest
)
SELECT network, dataset, cluster, captions, sentences, words,
       (SELECT count(*) FROM polysemanticity AS p WHERE p.run_id = c.run_id AND p.cluster = c.cluster AND shared >= 0.8 * k - 1e-9
        AND k = (SELECT arg_min(k, abs(k - 5)) FROM polysemanticity AS q WHERE q.run_id = c.run_id)) AS neurons, parameters, run_id
FROM sentence_cluster AS c JOIN latest USING (run_id)
ORDER BY network, dataset, run_id, cluster;
