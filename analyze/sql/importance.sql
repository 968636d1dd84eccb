-- Feature importance: test accuracy without the share of neurons that score highest on a criterion (Figure 4), means over repetitions.
-- drop is in percentage points against the whole network; beside stands random choice's. Of each choice of parameters the latest run.
WITH latest AS (
    SELECT run_id, network, dataset, parameters FROM v_run WHERE stage = 'ablations' AND is_latest
),
summed AS (
    SELECT run_id, criterion, share, count(*) AS repetitions, avg(neurons) AS neurons, avg(correct / total) AS accuracy,
           stddev_samp(correct / total) AS deviation, any_value(total) AS clips
    FROM importance JOIN latest USING (run_id) GROUP BY ALL
)
SELECT network, dataset, summed.criterion, summed.share, summed.repetitions, summed.neurons, summed.clips, summed.accuracy, summed.deviation,
       100 * (whole.accuracy - summed.accuracy) AS drop, 100 * (whole.accuracy - chance.accuracy) AS random_drop, parameters, run_id
FROM summed JOIN latest USING (run_id)
JOIN summed AS whole ON whole.run_id = summed.run_id AND whole.criterion = 'none'
LEFT JOIN summed AS chance ON chance.run_id = summed.run_id AND chance.criterion = 'random' AND chance.share = summed.share
ORDER BY network, dataset, run_id, summed.criterion, summed.share;
