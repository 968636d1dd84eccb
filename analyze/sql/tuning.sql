-- Tuning: what a layer's neurons are tuned to in the battery of stimuli: best frequency, bandwidth, best modulation rate and the like, by layer.
-- tuned is the share of the layer's neurons that have the measure; quantile_25, median and quantile_75 are over these. For rate_holds the mean over
-- them is the share whose best rate is one for tones and noise. Measures are those of table tuning. Of each choice of parameters the latest run.
WITH latest AS (
    SELECT run_id, network, dataset, parameters FROM v_run WHERE stage = 'tuning' AND is_latest
)
SELECT latest.network, dataset, layer.name AS layer, layer.position, measure, count(*) AS neurons, count(value) / count(*) AS tuned,
       quantile_cont(value, 0.25) AS quantile_25, median(value) AS median, quantile_cont(value, 0.75) AS quantile_75, avg(value) AS mean, parameters, run_id
FROM tuning JOIN latest USING (run_id) JOIN neuron USING (neuron_id) JOIN layer USING (layer_id)
GROUP BY ALL
ORDER BY latest.network, dataset, run_id, measure, layer.position;
