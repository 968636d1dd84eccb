-- Word clouds of the sentence clusters (Table 8): how often each cluster's commonest words occur in it, and how distinctive of it they are (weight,
-- c-TF-IDF). Stop words are left out. Latest run each.
WITH latest AS (
    SELECT run_id, parameters::JSON ->> 'network' AS network, parameters::JSON ->> 'dataset' AS dataset FROM run
    WHERE stage = 'polysemanticity' AND status = 'done'
    QUALIFY run_id = max(run_id) OVER (PARTITION BY network, dataset)
)
SELECT network, dataset, cluster, row_number() OVER (PARTITION BY run_id, cluster ORDER BY occurrences DESC, word) AS rank, word, occurrences, weight,
       run_id
FROM sentence_cluster_word JOIN latest USING (run_id)
ORDER BY network, dataset, cluster, rank;
