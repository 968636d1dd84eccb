-- Acoustic adjectives: in how many neurons' descriptions each occurs, per layer (Figures 3, 5 and 9). share is of the layer's described neurons.
-- level: basic adjectives name one measurable property, high-level ones (the rest) what a listener feels or infers. low and high bound the 95 % interval
-- of the share; near-copies (see v_heard) count as one. Of each choice of parameters the latest run.
WITH latest AS (
    SELECT described.run_id, network, dataset, v_run.parameters, recorded.run_id AS activation_run
    FROM v_run JOIN run AS described USING (run_id) LEFT JOIN run AS recorded ON recorded.run_key = described.parameters::JSON ->> 'activations'
    WHERE described.stage = 'descriptions' AND is_latest
),
described AS (
    SELECT run_id, layer_id, unnest(list(neuron_id ORDER BY neuron_id)) AS neuron_id,
           unnest(near_copies(list(coalesce(sources, []) ORDER BY neuron_id))) AS family
    FROM (SELECT DISTINCT run_id, activation_run, layer_id, neuron_id FROM summary_point JOIN latest USING (run_id) JOIN neuron USING (neuron_id)
          WHERE is_kept) AS kept
    LEFT JOIN (SELECT run_id AS activation_run, neuron_id, sources FROM v_heard) AS heard USING (activation_run, neuron_id)
    GROUP BY run_id, layer_id
),
said AS (
    SELECT run_id, layer_id, neuron_id, word AS adjective FROM concept JOIN latest USING (run_id) JOIN neuron USING (neuron_id)
    WHERE part_of_speech = 'adjective' AND is_acoustic
),
shares AS (
    SELECT run_id, layer_id, adjective, count(said.neuron_id) AS neurons, neurons / count(*) AS share,
           share_interval(list((said.neuron_id IS NOT NULL)::DOUBLE ORDER BY described.neuron_id), list(family::VARCHAR ORDER BY described.neuron_id)) AS bounds
    FROM (SELECT DISTINCT run_id, layer_id, adjective FROM said) AS words JOIN described USING (run_id, layer_id)
    LEFT JOIN said USING (run_id, layer_id, neuron_id, adjective)
    GROUP BY ALL
)
SELECT latest.network, dataset, layer.name AS layer, layer.position, adjective,
       CASE WHEN adjective IN (FROM v_basic_adjective) THEN 'basic' ELSE 'high-level' END AS level,
       neurons, share, bounds.low, bounds.high, parameters, run_id
FROM shares JOIN latest USING (run_id) JOIN layer USING (layer_id)
ORDER BY latest.network, dataset, run_id, position, neurons DESC, adjective;
