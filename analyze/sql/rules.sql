-- Rules: what measured properties tell of neurons, layer by layer (engine measured): how many have a rule, how well it tells, what it costs to say less.
-- auroc is the median cross-validated AUROC on the clips written from, with the quartiles over neurons; fewer and more that of the best rules of one
-- condition fewer and more; held_out the median on clips that were held out, floor what other neurons' rules reach there (95 % quantile), and
-- above_floor the share of all living neurons beyond their own. properties: what the layer's rules name most, with the direction. Of each choice
-- of parameters the latest run.
WITH latest AS (
    SELECT run_id, run_key, v_run.network, v_run.dataset, v_run.parameters FROM v_run JOIN run USING (run_id)
    WHERE run.stage = 'descriptions' AND is_latest AND run.parameters::JSON ->> 'model' = 'measured'
),
scored AS (
    SELECT latest.run_id, neuron_id, description_score.auroc, floor
    FROM latest JOIN run AS scores ON scores.parameters::JSON ->> 'descriptions' = latest.run_key AND scores.stage = 'scores' AND scores.status = 'done'
    JOIN description_score ON description_score.run_id = scores.run_id AND scorer = 'rule'
    QUALIFY scores.run_id = max(scores.run_id) OVER (PARTITION BY latest.run_id)
),
named AS (
    SELECT run_id, layer_id, property || ' ' || direction AS what, count(*) AS neurons
    FROM rule_condition JOIN latest USING (run_id) JOIN neuron USING (neuron_id) GROUP BY ALL
),
most AS (
    SELECT run_id, layer_id, string_agg(what || ' (' || neurons || ')', ', ' ORDER BY neurons DESC, what) AS properties
    FROM (FROM named QUALIFY row_number() OVER (PARTITION BY run_id, layer_id ORDER BY neurons DESC, what) <= 5) GROUP BY ALL
)
SELECT latest.network, dataset, layer.name AS layer, layer.position, count(*) AS neurons, count(*) FILTER (conditions > 0) / count(*) AS with_rule,
       avg(conditions) FILTER (conditions > 0) AS conditions, quantile_cont(rule.auroc, 0.25) AS quantile_25, median(rule.auroc) AS auroc,
       quantile_cont(rule.auroc, 0.75) AS quantile_75, median(auroc_fewer) AS fewer, median(auroc_more) AS more,
       median(scored.auroc) AS held_out, median(floor) AS floor,
       CASE WHEN count(scored.auroc) > 0 THEN count(*) FILTER (scored.auroc > floor) / count(*) END AS above_floor,
       any_value(properties) AS properties, parameters, latest.run_id
FROM rule JOIN latest USING (run_id) JOIN neuron USING (neuron_id) JOIN layer USING (layer_id)
LEFT JOIN scored USING (run_id, neuron_id) LEFT JOIN most USING (run_id, layer_id)
GROUP BY latest.network, dataset, layer.name, layer.position, parameters, latest.run_id
ORDER BY latest.network, dataset, latest.run_id, layer.position;
