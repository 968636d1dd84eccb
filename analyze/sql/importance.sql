-- Feature importance: test accuracy without the share of neurons that score highest on a criterion (Figure 4), means over repetitions.
-- drop is in percentage points against the whole network; beside stands random choice's, and difference is what it costs more than that. low and high
-- bound the 95 % interval of drop, difference_low and _high that of difference, over the recordings that test clips were cut from; p_value is the
-- difference's two-sided sign test over the worse and better ones (analyze/intervals.py). All of these hold for the repetitions' draws. Of each
-- choice of parameters the latest run.
WITH latest AS (
    SELECT run_id, network, dataset, parameters FROM v_run WHERE stage = 'ablations' AND is_latest
),
summed AS (
    SELECT run_id, criterion, share, count(*) AS repetitions, avg(neurons) AS neurons, avg(correct / total) AS accuracy,
           stddev_samp(correct / total) AS deviation, any_value(total) AS clips
    FROM importance JOIN latest USING (run_id) GROUP BY ALL
),
answered AS (
    SELECT run_id, criterion, share, clip_id, coalesce('group ' || source_group, 'clip ' || clip_id) AS source, 100 * avg(is_correct::INTEGER) AS points
    FROM importance_answer JOIN latest USING (run_id) JOIN clip USING (clip_id) GROUP BY ALL
),
paired AS (
    SELECT one.run_id, one.criterion, one.share, one.clip_id, one.source, whole.points - one.points AS lost, chance.points - one.points AS more
    FROM answered AS one JOIN answered AS whole ON whole.run_id = one.run_id AND whole.clip_id = one.clip_id AND whole.criterion = 'none'
    LEFT JOIN answered AS chance
        ON chance.run_id = one.run_id AND chance.clip_id = one.clip_id AND chance.criterion = 'random' AND chance.share = one.share
    WHERE one.criterion <> 'none'
),
bounded AS (
    SELECT run_id, criterion, share, mean_interval(list(lost ORDER BY clip_id), list(source ORDER BY clip_id)) AS lost,
           mean_interval(list(more ORDER BY clip_id) FILTER (more IS NOT NULL), list(source ORDER BY clip_id) FILTER (more IS NOT NULL)) AS more
    FROM paired GROUP BY ALL
),
turned AS (
    SELECT run_id, criterion, share, count(*) FILTER (more > 1e-9) AS worse, count(*) FILTER (more < -1e-9) AS better
    FROM (SELECT run_id, criterion, share, source, avg(more) AS more FROM paired WHERE more IS NOT NULL GROUP BY ALL)
    WHERE criterion <> 'random'
    GROUP BY ALL
)
SELECT network, dataset, summed.criterion, summed.share, summed.repetitions, summed.neurons, summed.clips, summed.accuracy, summed.deviation,
       round(100 * (whole.accuracy - summed.accuracy), 9) + 0 AS drop, bounded.lost.low, bounded.lost.high, round(100 * (whole.accuracy - chance.accuracy), 9) + 0 AS random_drop,
       CASE WHEN summed.criterion NOT IN ('none', 'random') THEN round(100 * (chance.accuracy - summed.accuracy), 9) + 0 END AS difference,
       CASE WHEN summed.criterion <> 'random' THEN bounded.more.low END AS difference_low,
       CASE WHEN summed.criterion <> 'random' THEN bounded.more.high END AS difference_high, worse, better, sign_test(worse, better) AS p_value,
       parameters, run_id
FROM summed JOIN latest USING (run_id)
JOIN summed AS whole ON whole.run_id = summed.run_id AND whole.criterion = 'none'
LEFT JOIN summed AS chance ON chance.run_id = summed.run_id AND chance.criterion = 'random' AND chance.share = summed.share
LEFT JOIN bounded ON bounded.run_id = summed.run_id AND bounded.criterion = summed.criterion AND bounded.share = summed.share
LEFT JOIN turned ON turned.run_id = summed.run_id AND turned.criterion = summed.criterion AND turned.share = summed.share
ORDER BY network, dataset, run_id, summed.criterion, summed.share;
