-- Map: how many neurons of each layer have a place on the map, where they lie, and how well the map keeps neighbours.
-- Of each layer placed and left_out (dead, constant, or not finite for some clip) count neurons, x and y are the median place, spread the distance from it
-- within which half of them lie. near_10 and near_50 are of the whole map: of a neuron's 10 nearest by correlation the share that is among its 10 and 50
-- nearest on the map, by chance chance_10 and chance_50. A map of several networks has the layers of all. Of each choice of parameters the latest run.
WITH latest AS (
    SELECT run_id, dataset, parameters FROM v_run WHERE stage = 'map' AND is_latest
),
placed AS (
    SELECT run_id, layer_id, neuron_id, x, y, median(x) OVER layer AS middle_x, median(y) OVER layer AS middle_y
    FROM neuron_position JOIN latest USING (run_id) JOIN neuron USING (neuron_id) WINDOW layer AS (PARTITION BY run_id, layer_id)
),
by_layer AS (
    SELECT run_id, layer_id, count(*) AS placed, any_value(middle_x) AS x, any_value(middle_y) AS y,
           median(sqrt((x - middle_x) ** 2 + (y - middle_y) ** 2)) AS spread
    FROM placed GROUP BY ALL
),
mapped AS ( -- all layers of channels or units of the networks that are on a map
    SELECT DISTINCT run_id, all_layers.layer_id, network_id FROM by_layer JOIN layer USING (layer_id) JOIN layer AS all_layers USING (network_id)
    WHERE all_layers.kind <> 'position'
),
recorded AS (SELECT layer_id, count(*) AS neurons FROM neuron GROUP BY layer_id)
SELECT network.name AS network, dataset, layer.name AS layer, layer.position, coalesce(by_layer.placed, 0) AS placed,
       recorded.neurons - coalesce(by_layer.placed, 0) AS left_out,
       x, y, spread, near_10, near_50, least(1, 10 / (neuron_map.placed - 1)) AS chance_10, least(1, 50 / (neuron_map.placed - 1)) AS chance_50, moved,
       parameters, run_id
FROM mapped JOIN latest USING (run_id) JOIN neuron_map USING (run_id) JOIN layer USING (layer_id) JOIN network ON network.network_id = mapped.network_id
JOIN recorded USING (layer_id) LEFT JOIN by_layer USING (run_id, layer_id)
ORDER BY network, dataset, run_id, layer.position;
