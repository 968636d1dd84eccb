-- Descriptions: per layer the neurons described, points kept and dropped by calibration, and open concepts. Of each choice of parameters the latest run.
WITH latest AS (
    SELECT run_id, network, dataset, v_run.parameters, captioned.parameters::JSON ->> 'captioner' AS captioner,
           coalesce(run.parameters::JSON ->> '$.model.name', 'commonalities') AS model
    FROM run JOIN v_run USING (run_id) LEFT JOIN (SELECT run_key, parameters FROM run WHERE stage = 'captions') AS captioned
        ON captioned.run_key = run.parameters::JSON ->> 'captions'
    WHERE run.stage = 'descriptions' AND is_latest
),
points AS (
    SELECT run_id, layer_id, count(DISTINCT neuron_id) FILTER (is_kept) AS described, count(*) FILTER (is_kept) AS kept,
           count(*) FILTER (NOT is_kept) AS dropped
    FROM summary_point JOIN latest USING (run_id) JOIN neuron USING (neuron_id) GROUP BY ALL
),
words AS (
    SELECT run_id, layer_id, count(DISTINCT neuron_id) FILTER (part_of_speech = 'adjective' AND is_acoustic) AS with_acoustic_adjective,
           sum(occurrences) FILTER (part_of_speech = 'adjective' AND is_acoustic) AS acoustic_adjectives
    FROM concept JOIN latest USING (run_id) JOIN neuron USING (neuron_id) GROUP BY ALL
)
SELECT latest.network, dataset, captioner, model, layer.name AS layer, layer.position,
       (SELECT count(*) FROM neuron WHERE neuron.layer_id = layer.layer_id) AS neurons, described, kept AS points_kept, dropped AS points_dropped,
       kept / nullif(described, 0) AS points_per_neuron, coalesce(with_acoustic_adjective, 0) AS with_acoustic_adjective,
       coalesce(acoustic_adjectives, 0)::BIGINT AS acoustic_adjectives, parameters, run_id
FROM points JOIN latest USING (run_id) JOIN layer USING (layer_id) LEFT JOIN words USING (run_id, layer_id)
ORDER BY latest.network, dataset, captioner, model, run_id, position;
