-- The twenty adjectives said of most neurons of a network, those that module C accepts (Figures 3 and 9). share is of its described neurons.
-- level: basic adjectives name one measurable property; published_level by the paper's own four. Of each choice of parameters the latest run.
WITH latest AS (
    SELECT run_id, network, dataset, parameters FROM v_run WHERE stage = 'descriptions' AND is_latest
),
described AS (SELECT run_id, count(DISTINCT neuron_id) AS described FROM summary_point JOIN latest USING (run_id) WHERE is_kept GROUP BY run_id),
counted AS (
    SELECT run_id, word, count(*) AS neurons FROM concept JOIN latest USING (run_id) WHERE part_of_speech = 'adjective' AND is_acoustic GROUP BY ALL
)
SELECT network, dataset, row_number() OVER (PARTITION BY run_id ORDER BY neurons DESC, word) AS rank, word AS adjective,
       CASE WHEN word IN (FROM v_basic_adjective) THEN 'basic' ELSE 'high-level' END AS level,
       CASE WHEN word IN (FROM v_published_basic_adjective) THEN 'basic' ELSE 'high-level' END AS published_level,
       neurons, described, neurons / described AS share, parameters, run_id
FROM counted JOIN latest USING (run_id) JOIN described USING (run_id)
QUALIFY rank <= 20
ORDER BY network, dataset, run_id, rank;
