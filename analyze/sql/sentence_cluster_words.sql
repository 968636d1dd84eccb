-- Word clouds of the sentence clusters (Table 8): how often each cluster's commonest words occur in it, and how distinctive of it they are (weight,
-- c-TF-IDF). Stop words are left out. Of each choice of parameters the latest run.
WITH latest AS (
    SELECT run_id, network, dataset, parameters FROM v_run WHERE stage = 'polysemanticity' AND is_latest
)
SELECT network, dataset, cluster, row_number() OVER (PARTITION BY run_id, cluster ORDER BY occurrences DESC, word) AS rank, word, occurrences, weight,
       parameters, run_id
FROM sentence_cluster_word JOIN latest USING (run_id)
ORDER BY network, dataset, run_id, cluster, rank;
