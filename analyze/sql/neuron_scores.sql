-- Held-out scores neuron by neuron, highest first: AUROC of a description with its 95 % interval, what chance reaches, and tests for all neurons at once.
-- p_value is how often one that says nothing of the neuron scores as high, q_value (Benjamini and Hochberg) the least share of false discoveries among
-- the neurons of a run and scorer at which it is one. NULL in runs made before p-values were kept. level is trusted (above its own floor, with a
-- q-value of at most 0.05) or weak (any other). Of each choice of parameters the latest run.
WITH latest AS (
    SELECT run_id, network, dataset, parameters FROM v_run WHERE stage = 'scores' AND is_latest
),
tested AS (
    SELECT run_id, scorer, unnest(list(neuron_id ORDER BY neuron_id)) AS neuron_id, unnest(q_values(list(p_value ORDER BY neuron_id))) AS q_value
    FROM description_score JOIN latest USING (run_id) WHERE p_value IS NOT NULL GROUP BY run_id, scorer
)
SELECT latest.network, dataset, scorer, layer, layer_position AS position, unit, v_neuron.name AS neuron, clips, positives, auroc, low, high,
       average_precision, floor, p_value, q_value, trust_level(auroc, floor, q_value) AS level, neuron_id, parameters, run_id
FROM description_score JOIN latest USING (run_id) JOIN v_neuron USING (neuron_id) LEFT JOIN tested USING (run_id, scorer, neuron_id)
ORDER BY latest.network, dataset, run_id, scorer, auroc DESC, neuron_id;
