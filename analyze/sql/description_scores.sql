-- Held-out scores: how well descriptions tell, layer by layer, which clips they were not written from activate the neuron (median AUROC).
-- floor is the median over neurons of the 95 % quantile that other neurons' descriptions reach (for scorer judge: the same ratings with clips drawn
-- anew); above_floor the share of neurons beyond their own. Judges rate few clips of few neurons, half of them positives.
WITH latest AS (
    SELECT run_id, network, dataset, parameters FROM v_run WHERE stage = 'scores' AND is_latest
)
SELECT latest.network, dataset, layer.name AS layer, layer.position, scorer, count(*) AS neurons, median(clips)::INTEGER AS clips,
       quantile_cont(auroc, 0.25) AS quantile_25, median(auroc) AS auroc, quantile_cont(auroc, 0.75) AS quantile_75,
       median(average_precision) AS average_precision, median(floor) AS floor, count(*) FILTER (auroc > floor) / count(*) AS above_floor, parameters, run_id
FROM description_score JOIN latest USING (run_id) JOIN neuron USING (neuron_id) JOIN layer USING (layer_id)
GROUP BY ALL
ORDER BY latest.network, dataset, run_id, position, scorer;
