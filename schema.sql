-- The Auricle warehouse: the one description of every table and column.
-- Units stand in the names (_s seconds, _hz hertz, _dbfs decibels relative to full scale). NULL means undefined or unknown, never zero.
-- A column NAME_id that is not its table's own key refers to NAME(NAME_id). The references of small tables are declared; those of the
-- mass tables (activation_summary, top_clip, class_activation, neighbor) would halve the speed of loading, so `auricle check` verifies them instead.

CREATE TABLE schema_version (
    version INTEGER PRIMARY KEY,
    applied_at TIMESTAMPTZ NOT NULL,
    auricle_version VARCHAR NOT NULL
);
COMMENT ON TABLE schema_version IS 'One row per schema version this file has had; the highest is the present one.';
COMMENT ON COLUMN schema_version.version IS 'Schema version, from 1.';
COMMENT ON COLUMN schema_version.applied_at IS 'When the file was created with, or migrated to, this version.';
COMMENT ON COLUMN schema_version.auricle_version IS 'Version of Auricle that did so.';

CREATE TABLE run (
    run_id INTEGER PRIMARY KEY,
    stage VARCHAR NOT NULL,
    run_key VARCHAR NOT NULL UNIQUE,
    dataset_sha256 VARCHAR,
    network_sha256 VARCHAR,
    parameters VARCHAR NOT NULL,
    seed BIGINT,
    code_version INTEGER NOT NULL,
    package_versions VARCHAR NOT NULL,
    git_revision VARCHAR,
    device VARCHAR NOT NULL,
    started_at TIMESTAMPTZ NOT NULL,
    finished_at TIMESTAMPTZ,
    status VARCHAR NOT NULL CHECK (status IN ('running', 'done'))
);
COMMENT ON TABLE run IS 'One row per execution of a stage with one set of inputs and parameters; every result row reaches its run.';
COMMENT ON COLUMN run.run_id IS 'Number of the run, from 1.';
COMMENT ON COLUMN run.stage IS 'Stage name, such as clips, activations or clusters.';
COMMENT ON COLUMN run.run_key IS 'SHA-256 over stage, data set content, network checkpoint, parameters and code version: the same work has the same key.';
COMMENT ON COLUMN run.dataset_sha256 IS 'Content hash of the data set read (dataset.content_sha256); NULL when the stage reads none.';
COMMENT ON COLUMN run.network_sha256 IS 'SHA-256 of the network''s checkpoint (network.checkpoint_sha256); NULL when the stage uses none.';
COMMENT ON COLUMN run.parameters IS 'Parameters as a JSON object with sorted keys.';
COMMENT ON COLUMN run.seed IS 'Seed of the random generator; NULL when nothing is drawn.';
COMMENT ON COLUMN run.code_version IS 'Version of the stage''s code; raised when its results change.';
COMMENT ON COLUMN run.package_versions IS 'Versions of Python and the packages that matter, as a JSON object.';
COMMENT ON COLUMN run.git_revision IS 'Git commit of Auricle, with "+" when files were changed; NULL outside a checkout.';
COMMENT ON COLUMN run.device IS 'Device the stage ran on, for example cpu or cuda (NVIDIA H100).';
COMMENT ON COLUMN run.started_at IS 'Start of the first attempt.';
COMMENT ON COLUMN run.finished_at IS 'When the last unit was committed; NULL while running or interrupted.';
COMMENT ON COLUMN run.status IS 'running (also: interrupted, the next ingest continues it) or done.';

CREATE TABLE work_unit (
    stage VARCHAR NOT NULL,
    item VARCHAR NOT NULL,
    input_sha256 VARCHAR NOT NULL,
    parameter_sha256 VARCHAR NOT NULL,
    code_version INTEGER NOT NULL,
    run_id INTEGER NOT NULL REFERENCES run (run_id),
    finished_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (stage, item, input_sha256, parameter_sha256, code_version)
);
COMMENT ON TABLE work_unit IS 'The ledger: one row per finished piece of work, committed together with what it produced.';
COMMENT ON COLUMN work_unit.stage IS 'Stage name.';
COMMENT ON COLUMN work_unit.item IS 'What was worked on: a file of a data set, a shard of clips, a layer.';
COMMENT ON COLUMN work_unit.input_sha256 IS 'Hash of the inputs.';
COMMENT ON COLUMN work_unit.parameter_sha256 IS 'Hash of the parameters.';
COMMENT ON COLUMN work_unit.code_version IS 'Version of the stage''s code.';
COMMENT ON COLUMN work_unit.run_id IS 'Run that did it.';
COMMENT ON COLUMN work_unit.finished_at IS 'When it was committed.';

CREATE TABLE failure (
    run_id INTEGER NOT NULL REFERENCES run (run_id),
    stage VARCHAR NOT NULL,
    item VARCHAR NOT NULL,
    reason VARCHAR NOT NULL,
    failed_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (run_id, stage, item)
);
COMMENT ON TABLE failure IS 'Items a run could not process. They have no result rows anywhere.';
COMMENT ON COLUMN failure.run_id IS 'Run that met the failure.';
COMMENT ON COLUMN failure.stage IS 'Stage name.';
COMMENT ON COLUMN failure.item IS 'File, metadata row or clip that failed.';
COMMENT ON COLUMN failure.reason IS 'One line: what is wrong.';
COMMENT ON COLUMN failure.failed_at IS 'When it was recorded.';

CREATE TABLE dataset (
    dataset_id INTEGER PRIMARY KEY,
    run_id INTEGER NOT NULL REFERENCES run (run_id),
    name VARCHAR NOT NULL,
    version INTEGER NOT NULL,
    reader VARCHAR NOT NULL,
    source VARCHAR NOT NULL,
    content_sha256 VARCHAR NOT NULL,
    license VARCHAR,
    UNIQUE (name, content_sha256)
);
COMMENT ON TABLE dataset IS 'A set of sounds as it was when read. Changed content makes a new version beside the old one.';
COMMENT ON COLUMN dataset.dataset_id IS 'Number of the data set version.';
COMMENT ON COLUMN dataset.run_id IS 'Run of stage clips that read it.';
COMMENT ON COLUMN dataset.name IS 'Name given by the user or the reader.';
COMMENT ON COLUMN dataset.version IS 'Counts the contents read under this name, from 1; the highest is the latest.';
COMMENT ON COLUMN dataset.reader IS 'Reader, as listed by `auricle datasets`, with what was drawn from it.';
COMMENT ON COLUMN dataset.source IS 'Absolute path of the folder read; for starter, where its sounds were written.';
COMMENT ON COLUMN dataset.content_sha256 IS 'Hash over every file''s content and all metadata used.';
COMMENT ON COLUMN dataset.license IS 'Licence and attribution to print beside the sounds; NULL when unknown.';

CREATE TABLE label_set (
    label_set_id INTEGER PRIMARY KEY,
    dataset_id INTEGER NOT NULL REFERENCES dataset (dataset_id),
    name VARCHAR NOT NULL,
    UNIQUE (dataset_id, name)
);
COMMENT ON TABLE label_set IS 'A way of labelling a data set''s clips, such as category, or digit and speaker.';
COMMENT ON COLUMN label_set.label_set_id IS 'Number of the label set.';
COMMENT ON COLUMN label_set.dataset_id IS 'Data set it belongs to.';
COMMENT ON COLUMN label_set.name IS 'Name, unique within the data set; the lowest label_set_id of a data set is its main one.';

CREATE TABLE class (
    class_id INTEGER PRIMARY KEY,
    label_set_id INTEGER NOT NULL REFERENCES label_set (label_set_id),
    name VARCHAR NOT NULL,
    UNIQUE (label_set_id, name)
);
COMMENT ON TABLE class IS 'One value of a label set.';
COMMENT ON COLUMN class.class_id IS 'Number of the class; ascending within a label set in the reader''s order.';
COMMENT ON COLUMN class.label_set_id IS 'Label set it belongs to.';
COMMENT ON COLUMN class.name IS 'Name as the data set writes it.';

CREATE TABLE clip (
    clip_id INTEGER PRIMARY KEY,
    dataset_id INTEGER NOT NULL REFERENCES dataset (dataset_id),
    name VARCHAR NOT NULL,
    sha256 VARCHAR NOT NULL,
    duration_s DOUBLE NOT NULL CHECK (duration_s > 0),
    sample_rate_hz INTEGER NOT NULL CHECK (sample_rate_hz > 0),
    channels INTEGER NOT NULL CHECK (channels > 0),
    rms_dbfs DOUBLE,
    peak_dbfs DOUBLE,
    median_frequency_hz DOUBLE,
    silence_share DOUBLE NOT NULL CHECK (silence_share BETWEEN 0 AND 1),
    fold INTEGER,
    source_group VARCHAR,
    UNIQUE (dataset_id, name)
);
COMMENT ON TABLE clip IS 'One readable sound file. Levels and frequency are measured on the whole file mixed to mono by the mean, at its own rate.';
COMMENT ON COLUMN clip.clip_id IS 'Number of the clip; ascending within a data set in the reader''s order. Breaks ties in rankings.';
COMMENT ON COLUMN clip.dataset_id IS 'Data set it belongs to.';
COMMENT ON COLUMN clip.name IS 'Path relative to the data set''s audio folder, with forward slashes.';
COMMENT ON COLUMN clip.sha256 IS 'SHA-256 of the file.';
COMMENT ON COLUMN clip.duration_s IS 'Length in seconds.';
COMMENT ON COLUMN clip.sample_rate_hz IS 'Sample rate of the file in hertz.';
COMMENT ON COLUMN clip.channels IS 'Channels of the file.';
COMMENT ON COLUMN clip.rms_dbfs IS 'Root-mean-square level, dB relative to a full-scale square wave (a full-scale sine is -3.01); NULL for digital silence.';
COMMENT ON COLUMN clip.peak_dbfs IS 'Highest absolute sample, dB relative to full scale; NULL for digital silence.';
COMMENT ON COLUMN clip.median_frequency_hz IS 'Frequency below which half of the power spectrum (Welch average, DC included) lies, in hertz; NULL for digital silence.';
COMMENT ON COLUMN clip.silence_share IS 'Share of whole 20 ms frames whose RMS level is below -60 dBFS, 0 to 1; a shorter file is one frame.';
COMMENT ON COLUMN clip.fold IS 'Official cross-validation fold; NULL when the set has none.';
COMMENT ON COLUMN clip.source_group IS 'Clips sharing a group come from one recording; NULL when unknown.';

CREATE TABLE clip_label (
    clip_id INTEGER NOT NULL REFERENCES clip (clip_id),
    class_id INTEGER NOT NULL REFERENCES class (class_id),
    PRIMARY KEY (clip_id, class_id)
);
COMMENT ON TABLE clip_label IS 'Which classes a clip carries; a clip may carry one class of each of several label sets, or several of one.';
COMMENT ON COLUMN clip_label.clip_id IS 'Clip.';
COMMENT ON COLUMN clip_label.class_id IS 'Class.';

CREATE TABLE network (
    network_id INTEGER PRIMARY KEY,
    name VARCHAR NOT NULL,
    family VARCHAR NOT NULL,
    checkpoint_sha256 VARCHAR NOT NULL,
    sample_rate_hz INTEGER NOT NULL,
    clip_s DOUBLE NOT NULL,
    window_s DOUBLE NOT NULL,
    window_hop_s DOUBLE NOT NULL,
    output_names VARCHAR,
    note VARCHAR,
    UNIQUE (name, checkpoint_sha256, clip_s)
);
COMMENT ON TABLE network IS 'A target network with one checkpoint, listening to clips of one length.';
COMMENT ON COLUMN network.network_id IS 'Number of the network.';
COMMENT ON COLUMN network.name IS 'Name, such as yamnet.';
COMMENT ON COLUMN network.family IS 'Architecture family, such as mobilenet or whisper.';
COMMENT ON COLUMN network.checkpoint_sha256 IS 'SHA-256 of the checkpoint, over tensor names, shapes and values, whatever file format held them.';
COMMENT ON COLUMN network.sample_rate_hz IS 'Sample rate the network expects, in hertz.';
COMMENT ON COLUMN network.clip_s IS 'Seconds of a clip it is given: shorter clips are padded on the right, longer ones give their middle.';
COMMENT ON COLUMN network.window_s IS 'Seconds one forward window covers (equals clip_s when the network takes the clip whole).';
COMMENT ON COLUMN network.window_hop_s IS 'Seconds between the starts of two windows.';
COMMENT ON COLUMN network.output_names IS 'Class names of its classifier as a JSON array; NULL when it has none.';
COMMENT ON COLUMN network.note IS 'What a reader should know, such as the data it was trained on.';

CREATE TABLE layer (
    layer_id INTEGER PRIMARY KEY,
    network_id INTEGER NOT NULL REFERENCES network (network_id),
    name VARCHAR NOT NULL,
    position INTEGER NOT NULL,
    module VARCHAR NOT NULL,
    kind VARCHAR NOT NULL CHECK (kind IN ('channel', 'position', 'unit')),
    shape VARCHAR NOT NULL,
    non_negative BOOLEAN NOT NULL,
    UNIQUE (network_id, name, kind)
);
COMMENT ON TABLE layer IS 'A place in a network whose neurons are recorded.';
COMMENT ON COLUMN layer.layer_id IS 'Number of the layer.';
COMMENT ON COLUMN layer.network_id IS 'Network.';
COMMENT ON COLUMN layer.name IS 'Short name, unique within the network and kind.';
COMMENT ON COLUMN layer.position IS 'Order in the forward pass, from 0.';
COMMENT ON COLUMN layer.module IS 'Path of the hooked module.';
COMMENT ON COLUMN layer.kind IS 'What a neuron is here: channel (of a convolution, reduced over time and frequency), position (one element of a convolution''s output) or unit (of a linear layer, reduced over tokens where there are any).';
COMMENT ON COLUMN layer.shape IS 'Output of one window as a JSON array: channels x time x frequency, tokens x units, or units.';
COMMENT ON COLUMN layer.non_negative IS 'True when values cannot be negative (after a ReLU or sigmoid).';

CREATE TABLE neuron (
    neuron_id INTEGER PRIMARY KEY,
    layer_id INTEGER NOT NULL REFERENCES layer (layer_id),
    unit INTEGER NOT NULL,
    time_position INTEGER,
    frequency_position INTEGER,
    name VARCHAR
);
COMMENT ON TABLE neuron IS 'One neuron. Within a layer neuron_id ascends without gaps in the row order of the layer''s activation files.';
COMMENT ON COLUMN neuron.neuron_id IS 'Number of the neuron.';
COMMENT ON COLUMN neuron.layer_id IS 'Layer.';
COMMENT ON COLUMN neuron.unit IS 'Channel or unit within the layer, from 0.';
COMMENT ON COLUMN neuron.time_position IS 'Time index within a window, for kind position; NULL otherwise.';
COMMENT ON COLUMN neuron.frequency_position IS 'Frequency index, for kind position; NULL otherwise.';
COMMENT ON COLUMN neuron.name IS 'Class name for the outputs of a classifier; NULL otherwise.';

CREATE TABLE activation_clip (
    run_id INTEGER NOT NULL REFERENCES run (run_id),
    column_index INTEGER NOT NULL,
    clip_id INTEGER NOT NULL REFERENCES clip (clip_id),
    PRIMARY KEY (run_id, column_index)
);
COMMENT ON TABLE activation_clip IS 'Which clip stands in which column of a run''s activation files.';
COMMENT ON COLUMN activation_clip.run_id IS 'Run of stage activations.';
COMMENT ON COLUMN activation_clip.column_index IS 'Column, from 0.';
COMMENT ON COLUMN activation_clip.clip_id IS 'Clip.';

CREATE TABLE activation_file (
    activation_file_id INTEGER PRIMARY KEY,
    run_id INTEGER NOT NULL REFERENCES run (run_id),
    layer_id INTEGER NOT NULL REFERENCES layer (layer_id),
    reduction VARCHAR NOT NULL,
    path VARCHAR NOT NULL UNIQUE,
    neurons INTEGER NOT NULL,
    clips INTEGER NOT NULL,
    dtype VARCHAR NOT NULL CHECK (dtype IN ('float16', 'float32')),
    sha256 VARCHAR NOT NULL,
    UNIQUE (run_id, layer_id, reduction)
);
COMMENT ON TABLE activation_file IS 'The full matrices: NumPy .npy files, neurons x clips in row-major order, so a row is one neuron.';
COMMENT ON COLUMN activation_file.activation_file_id IS 'Number of the file.';
COMMENT ON COLUMN activation_file.run_id IS 'Run of stage activations.';
COMMENT ON COLUMN activation_file.layer_id IS 'Layer.';
COMMENT ON COLUMN activation_file.reduction IS 'How a clip''s many values became one: mean or max over time, frequency and windows, active (share of these values above 0), cls (first token), or window_mean (positions).';
COMMENT ON COLUMN activation_file.path IS 'Path relative to the folder of the database file.';
COMMENT ON COLUMN activation_file.neurons IS 'Rows: neurons in order of neuron_id.';
COMMENT ON COLUMN activation_file.clips IS 'Columns: clips in order of activation_clip.column_index.';
COMMENT ON COLUMN activation_file.dtype IS 'float16 or float32.';
COMMENT ON COLUMN activation_file.sha256 IS 'SHA-256 of the file.';

CREATE TABLE activation_summary (
    run_id INTEGER NOT NULL,
    neuron_id INTEGER NOT NULL,
    reduction VARCHAR NOT NULL,
    clips INTEGER NOT NULL,
    mean DOUBLE,
    deviation DOUBLE,
    minimum DOUBLE,
    quantile_05 DOUBLE,
    quantile_25 DOUBLE,
    median DOUBLE,
    quantile_75 DOUBLE,
    quantile_95 DOUBLE,
    maximum DOUBLE,
    share_active DOUBLE,
    is_dead BOOLEAN NOT NULL,
    histogram VARCHAR,
    PRIMARY KEY (run_id, neuron_id, reduction)
);
COMMENT ON TABLE activation_summary IS 'Distribution of a neuron''s activation over a run''s clips, computed from the stored matrix.';
COMMENT ON COLUMN activation_summary.run_id IS 'Run of stage activations.';
COMMENT ON COLUMN activation_summary.neuron_id IS 'Neuron.';
COMMENT ON COLUMN activation_summary.reduction IS 'Reduction, as in activation_file.';
COMMENT ON COLUMN activation_summary.clips IS 'Clips with a finite value; the statistics are over these.';
COMMENT ON COLUMN activation_summary.mean IS 'Mean; NULL without finite values.';
COMMENT ON COLUMN activation_summary.deviation IS 'Population standard deviation.';
COMMENT ON COLUMN activation_summary.minimum IS 'Least value.';
COMMENT ON COLUMN activation_summary.quantile_05 IS '5 % quantile, linear interpolation.';
COMMENT ON COLUMN activation_summary.quantile_25 IS '25 % quantile.';
COMMENT ON COLUMN activation_summary.median IS 'Median.';
COMMENT ON COLUMN activation_summary.quantile_75 IS '75 % quantile.';
COMMENT ON COLUMN activation_summary.quantile_95 IS '95 % quantile.';
COMMENT ON COLUMN activation_summary.maximum IS 'Greatest value.';
COMMENT ON COLUMN activation_summary.share_active IS 'Share of clips with a value above 0, 0 to 1.';
COMMENT ON COLUMN activation_summary.is_dead IS 'True when every finite value is 0.';
COMMENT ON COLUMN activation_summary.histogram IS 'Counts in 24 equal bins from minimum to maximum as a JSON array; NULL when these are equal or undefined.';

CREATE TABLE top_clip (
    run_id INTEGER NOT NULL,
    neuron_id INTEGER NOT NULL,
    reduction VARCHAR NOT NULL,
    side VARCHAR NOT NULL,
    rank INTEGER NOT NULL,
    clip_id INTEGER NOT NULL,
    activation FLOAT NOT NULL,
    course FLOAT[],
    PRIMARY KEY (run_id, neuron_id, reduction, side, rank)
);
COMMENT ON TABLE top_clip IS 'The clips that move a neuron most and least.';
COMMENT ON COLUMN top_clip.run_id IS 'Run of stage activations.';
COMMENT ON COLUMN top_clip.neuron_id IS 'Neuron.';
COMMENT ON COLUMN top_clip.reduction IS 'Reduction ranked by, as in activation_file.';
COMMENT ON COLUMN top_clip.side IS 'high (rank 1 is the highest value) or low (rank 1 is the lowest).';
COMMENT ON COLUMN top_clip.rank IS 'Rank from 1; equal values are ordered by clip_id.';
COMMENT ON COLUMN top_clip.clip_id IS 'Clip.';
COMMENT ON COLUMN top_clip.activation IS 'The clip''s value in the stored matrix.';
COMMENT ON COLUMN top_clip.course IS 'Activation over the clip''s network.clip_s seconds in up to 64 equal steps, averaged over frequency; NULL for neurons without a time axis. Kept for reduction mean only.';

CREATE TABLE class_activation (
    run_id INTEGER NOT NULL,
    neuron_id INTEGER NOT NULL,
    reduction VARCHAR NOT NULL,
    class_id INTEGER NOT NULL,
    clips INTEGER NOT NULL,
    mean FLOAT,
    share_active FLOAT,
    selectivity FLOAT,
    average_precision FLOAT,
    PRIMARY KEY (run_id, neuron_id, reduction, class_id)
);
COMMENT ON TABLE class_activation IS 'How a neuron answers to each class of every label set.';
COMMENT ON COLUMN class_activation.run_id IS 'Run of stage activations.';
COMMENT ON COLUMN class_activation.neuron_id IS 'Neuron.';
COMMENT ON COLUMN class_activation.reduction IS 'Reduction, as in activation_file.';
COMMENT ON COLUMN class_activation.class_id IS 'Class.';
COMMENT ON COLUMN class_activation.clips IS 'Clips of the class with a finite value.';
COMMENT ON COLUMN class_activation.mean IS 'Mean over those clips; NULL without any.';
COMMENT ON COLUMN class_activation.share_active IS 'Share of those clips with a value above 0.';
COMMENT ON COLUMN class_activation.selectivity IS '(m - r) / (m + r), m the mean over the class, r over the label set''s other clips, -1 to 1 (Morcos et al. 2018, one class against the rest); NULL when the layer has negative values or m + r is 0.';
COMMENT ON COLUMN class_activation.average_precision IS 'Average precision of the activation as a detector of the class among the label set''s clips, ties shared as in scikit-learn; NULL when the class has no clip or no other clip exists.';

CREATE TABLE neighbor (
    run_id INTEGER NOT NULL,
    neuron_id INTEGER NOT NULL,
    rank INTEGER NOT NULL,
    neighbor_id INTEGER NOT NULL,
    correlation FLOAT NOT NULL,
    PRIMARY KEY (run_id, neuron_id, rank)
);
COMMENT ON TABLE neighbor IS 'The other neurons of the network whose mean activation goes up and down with a neuron''s over a run''s clips.';
COMMENT ON COLUMN neighbor.run_id IS 'Run of stage activations.';
COMMENT ON COLUMN neighbor.neuron_id IS 'Neuron.';
COMMENT ON COLUMN neighbor.rank IS 'Rank from 1, by falling correlation; equal values are ordered by neighbor_id.';
COMMENT ON COLUMN neighbor.neighbor_id IS 'The other neuron (neuron.neuron_id).';
COMMENT ON COLUMN neighbor.correlation IS 'Pearson correlation over the clips, -1 to 1. Constant neurons have no neighbours.';

CREATE VIEW v_neuron AS
SELECT neuron_id, network_id, layer_id, network.name AS network, layer.name AS layer, layer.position AS layer_position, kind, unit, time_position,
       frequency_position, neuron.name AS name
FROM neuron JOIN layer USING (layer_id) JOIN network USING (network_id);
COMMENT ON VIEW v_neuron IS 'Neurons with the names of their layer and network.';

CREATE VIEW v_activation_run AS
SELECT run_id, network.network_id, network.name AS network, clip_s, dataset.dataset_id, dataset.name AS dataset, dataset.version AS dataset_version,
       found.has_positions, run.finished_at,
       row_number() OVER (PARTITION BY network.name, dataset.name, found.has_positions ORDER BY dataset.version DESC, run_id DESC) = 1 AS is_latest
FROM run
JOIN (SELECT run_id, min(network_id) AS network_id, bool_or(kind = 'position') AS has_positions
      FROM activation_file JOIN layer USING (layer_id) GROUP BY run_id) AS found USING (run_id)
JOIN network ON network.network_id = found.network_id
JOIN activation_clip USING (run_id)
JOIN clip USING (clip_id)
JOIN dataset USING (dataset_id)
WHERE run.status = 'done' AND activation_clip.column_index = 0;
COMMENT ON VIEW v_activation_run IS 'Finished runs of stage activations with their network and data set; is_latest marks the newest per pair of names.';

CREATE VIEW v_top_clip AS
SELECT top_clip.run_id, v_neuron.network, v_neuron.layer, v_neuron.unit, v_neuron.name AS neuron, top_clip.neuron_id, reduction, side, rank,
       clip.name AS clip, top_clip.clip_id, activation,
       (SELECT string_agg(class.name, ', ' ORDER BY class_id) FROM clip_label JOIN class USING (class_id) WHERE clip_label.clip_id = clip.clip_id) AS classes
FROM top_clip JOIN v_neuron USING (neuron_id) JOIN clip USING (clip_id);
COMMENT ON VIEW v_top_clip IS 'Highest and lowest clips with the names of neuron, clip and classes.';

CREATE VIEW v_class_neuron AS
SELECT class_activation.run_id, v_neuron.network, v_neuron.layer, v_neuron.layer_position, v_neuron.unit, v_neuron.name AS neuron, neuron_id,
       reduction, label_set.name AS label_set, class.name AS class, class_id, clips, mean, share_active, selectivity, average_precision
FROM class_activation JOIN v_neuron USING (neuron_id) JOIN class USING (class_id) JOIN label_set USING (label_set_id);
COMMENT ON VIEW v_class_neuron IS 'How neurons answer to classes, with names.';

-- Since version 2: layer probes, clusters of neurons, read-outs and interventions.

CREATE TABLE probe (
    run_id INTEGER NOT NULL,
    layer_id INTEGER NOT NULL,
    method VARCHAR NOT NULL CHECK (method IN ('knn', 'linear')),
    k INTEGER,
    fold INTEGER NOT NULL,
    class_id INTEGER NOT NULL,
    correct INTEGER NOT NULL,
    total INTEGER NOT NULL,
    UNIQUE (run_id, layer_id, method, k, fold, class_id)
);
COMMENT ON TABLE probe IS 'How much of the classes a layer holds: clips of each fold and class told rightly by a classifier fitted on the other folds'' activations.';
COMMENT ON COLUMN probe.run_id IS 'Run of stage probes.';
COMMENT ON COLUMN probe.layer_id IS 'Layer.';
COMMENT ON COLUMN probe.method IS 'knn (nearest neighbours, Euclidean, majority vote) or linear (logistic regression on standardised activations).';
COMMENT ON COLUMN probe.k IS 'Number of neighbours; NULL for linear.';
COMMENT ON COLUMN probe.fold IS 'Fold that was tested: clip.fold where the data set has folds, otherwise drawn with the run''s seed, groups kept together.';
COMMENT ON COLUMN probe.class_id IS 'True class of the clips counted.';
COMMENT ON COLUMN probe.correct IS 'Clips told rightly.';
COMMENT ON COLUMN probe.total IS 'Clips tested.';

CREATE TABLE clustering (
    run_id INTEGER NOT NULL REFERENCES run (run_id),
    layer_id INTEGER NOT NULL REFERENCES layer (layer_id),
    reduction VARCHAR NOT NULL,
    backend VARCHAR NOT NULL,
    neurons INTEGER NOT NULL,
    dead INTEGER NOT NULL,
    neighbor_recall DOUBLE,
    neuron_entropy_bits DOUBLE,
    PRIMARY KEY (run_id, layer_id)
);
COMMENT ON TABLE clustering IS 'A layer whose neurons were clustered by FINCH (Sarfraz et al. 2019), Euclidean, on their activations over a run''s clips.';
COMMENT ON COLUMN clustering.run_id IS 'Run of stage clusters.';
COMMENT ON COLUMN clustering.layer_id IS 'Layer.';
COMMENT ON COLUMN clustering.reduction IS 'Reduction of the matrix clustered, as in activation_file.';
COMMENT ON COLUMN clustering.backend IS 'How first neighbours were found: exact, nn-descent or finch-clust.';
COMMENT ON COLUMN clustering.neurons IS 'Neurons clustered: those that are not dead.';
COMMENT ON COLUMN clustering.dead IS 'Neurons left out because they are 0 on every clip.';
COMMENT ON COLUMN clustering.neighbor_recall IS 'Share of right first neighbours, measured on a sample; 1 for exact; NULL for finch-clust.';
COMMENT ON COLUMN clustering.neuron_entropy_bits IS 'Mean entropy over the classes, in bits, of the single neurons'' summed activations; NULL where undefined.';

CREATE TABLE cluster (
    cluster_id INTEGER PRIMARY KEY,
    run_id INTEGER NOT NULL,
    layer_id INTEGER NOT NULL,
    partition INTEGER NOT NULL,
    number INTEGER NOT NULL,
    parent_id INTEGER,
    neurons INTEGER NOT NULL,
    is_chosen BOOLEAN NOT NULL,
    class_entropy_bits DOUBLE,
    class_entropy_ratio DOUBLE,
    position_entropy_ratio DOUBLE,
    channel_entropy_ratio DOUBLE,
    UNIQUE (run_id, layer_id, partition, number)
);
COMMENT ON TABLE cluster IS 'Neurons that answer alike, at one level of the hierarchy.';
COMMENT ON COLUMN cluster.cluster_id IS 'Number of the cluster.';
COMMENT ON COLUMN cluster.run_id IS 'Run of stage clusters.';
COMMENT ON COLUMN cluster.layer_id IS 'Layer.';
COMMENT ON COLUMN cluster.partition IS 'Level of the hierarchy, 0 the finest.';
COMMENT ON COLUMN cluster.number IS 'Number within layer and partition, from 0.';
COMMENT ON COLUMN cluster.parent_id IS 'Cluster of the next coarser partition that holds it (cluster.cluster_id); NULL in the coarsest.';
COMMENT ON COLUMN cluster.neurons IS 'Members.';
COMMENT ON COLUMN cluster.is_chosen IS 'True in the partition chosen for the layer, so that the layers'' numbers of clusters are as equal as can be.';
COMMENT ON COLUMN cluster.class_entropy_bits IS 'SEnt: entropy of the normalised class activation vector (ccav), in bits; NULL where that is all zero or has negative values.';
COMMENT ON COLUMN cluster.class_entropy_ratio IS 'SEnt over its maximum, 0 (one class) to 1 (all classes alike); NULL where undefined.';
COMMENT ON COLUMN cluster.position_entropy_ratio IS 'PEnt: entropy of the members over time and frequency over its maximum, 0 to 1; NULL for neurons without positions.';
COMMENT ON COLUMN cluster.channel_entropy_ratio IS 'CEnt: entropy of the members over channels over its maximum, 0 to 1; NULL where undefined.';

CREATE TABLE cluster_member (
    cluster_id INTEGER NOT NULL,
    neuron_id INTEGER NOT NULL,
    PRIMARY KEY (cluster_id, neuron_id)
);
COMMENT ON TABLE cluster_member IS 'Which neurons a cluster holds, at every level.';
COMMENT ON COLUMN cluster_member.cluster_id IS 'Cluster.';
COMMENT ON COLUMN cluster_member.neuron_id IS 'Neuron.';

CREATE TABLE ccav (
    cluster_id INTEGER NOT NULL,
    class_id INTEGER NOT NULL,
    activation DOUBLE NOT NULL,
    PRIMARY KEY (cluster_id, class_id)
);
COMMENT ON TABLE ccav IS 'Cluster class activation vectors.';
COMMENT ON COLUMN ccav.cluster_id IS 'Cluster.';
COMMENT ON COLUMN ccav.class_id IS 'Class of the data set''s main label set.';
COMMENT ON COLUMN ccav.activation IS 'Sum over the class''s clips of the mean activation of the members.';

CREATE TABLE cluster_clip (
    cluster_id INTEGER NOT NULL,
    rank INTEGER NOT NULL,
    clip_id INTEGER NOT NULL,
    activation DOUBLE NOT NULL,
    PRIMARY KEY (cluster_id, rank)
);
COMMENT ON TABLE cluster_clip IS 'The clips that move a cluster most.';
COMMENT ON COLUMN cluster_clip.cluster_id IS 'Cluster.';
COMMENT ON COLUMN cluster_clip.rank IS 'Rank from 1; equal values are ordered by clip_id.';
COMMENT ON COLUMN cluster_clip.clip_id IS 'Clip.';
COMMENT ON COLUMN cluster_clip.activation IS 'Mean activation of the members on the clip.';

CREATE TABLE readout (
    run_id INTEGER NOT NULL,
    class_id INTEGER NOT NULL,
    correct INTEGER NOT NULL,
    total INTEGER NOT NULL,
    PRIMARY KEY (run_id, class_id)
);
COMMENT ON TABLE readout IS 'How many clips of each class the undisturbed network tells rightly, by the read-out named in the run''s parameters.';
COMMENT ON COLUMN readout.run_id IS 'Run of stage interventions or specific_ablations.';
COMMENT ON COLUMN readout.class_id IS 'True class.';
COMMENT ON COLUMN readout.correct IS 'Clips told rightly.';
COMMENT ON COLUMN readout.total IS 'Clips read out.';

CREATE TABLE intervention (
    run_id INTEGER NOT NULL,
    cluster_id INTEGER NOT NULL,
    target VARCHAR NOT NULL CHECK (target IN ('cluster', 'control')),
    repetition INTEGER NOT NULL,
    class_id INTEGER NOT NULL,
    correct INTEGER NOT NULL,
    PRIMARY KEY (run_id, cluster_id, target, repetition, class_id)
);
COMMENT ON TABLE intervention IS 'How many clips of each class are still told rightly when a group of neurons is disturbed; readout has the undisturbed counts.';
COMMENT ON COLUMN intervention.run_id IS 'Run of stage interventions.';
COMMENT ON COLUMN intervention.cluster_id IS 'Cluster disturbed or, for control, matched in size.';
COMMENT ON COLUMN intervention.target IS 'cluster: its members; control: as many random living neurons of the layer outside it, drawn anew for each repetition.';
COMMENT ON COLUMN intervention.repetition IS 'Repetition, from 0, each with its own draws.';
COMMENT ON COLUMN intervention.class_id IS 'True class.';
COMMENT ON COLUMN intervention.correct IS 'Clips told rightly.';

CREATE VIEW v_probe AS
SELECT probe.run_id, network.name AS network, layer.name AS layer, layer.position AS layer_position, dataset.name AS dataset,
       label_set.name AS label_set, method, k, sum(correct) AS correct, sum(total) AS total, sum(correct) / sum(total) AS accuracy
FROM probe JOIN layer USING (layer_id) JOIN network USING (network_id) JOIN class USING (class_id) JOIN label_set USING (label_set_id)
JOIN dataset USING (dataset_id)
GROUP BY ALL;
COMMENT ON VIEW v_probe IS 'Accuracy of every layer probe over all folds and classes.';

CREATE VIEW v_cluster AS
SELECT cluster.*, network.name AS network, layer.name AS layer, layer.position AS layer_position,
       (SELECT arg_max(class.name, activation) FROM ccav JOIN class USING (class_id) WHERE ccav.cluster_id = cluster.cluster_id) AS first_class
FROM cluster JOIN layer USING (layer_id) JOIN network USING (network_id);
COMMENT ON VIEW v_cluster IS 'Clusters with the names of their layer and network, and the class that moves them most.';

-- Since version 3: captions, language models' replies, summaries, open and closed concepts, polysemanticity, ablations, ratings.

CREATE TABLE caption (
    run_id INTEGER NOT NULL,
    clip_id INTEGER NOT NULL,
    text VARCHAR NOT NULL,
    raw VARCHAR NOT NULL,
    PRIMARY KEY (run_id, clip_id)
);
COMMENT ON TABLE caption IS 'What a captioner says of a clip; clips it could not caption have a failure row instead.';
COMMENT ON COLUMN caption.run_id IS 'Run of stage captions; its parameters name the captioner.';
COMMENT ON COLUMN caption.clip_id IS 'Clip.';
COMMENT ON COLUMN caption.text IS 'The caption, cleaned up.';
COMMENT ON COLUMN caption.raw IS 'What the captioner returned.';

CREATE TABLE reply (
    model_sha256 VARCHAR NOT NULL,
    prompt_sha256 VARCHAR NOT NULL,
    run_id INTEGER NOT NULL,
    prompt VARCHAR NOT NULL,
    raw VARCHAR NOT NULL,
    text VARCHAR,
    reason VARCHAR,
    PRIMARY KEY (model_sha256, prompt_sha256)
);
COMMENT ON TABLE reply IS 'What a language model answered. A prompt is asked once per model, whatever runs want it.';
COMMENT ON COLUMN reply.model_sha256 IS 'Hash of everything that identifies the model''s replies: weights or address, sampling, seed.';
COMMENT ON COLUMN reply.prompt_sha256 IS 'Hash of the prompt.';
COMMENT ON COLUMN reply.run_id IS 'Run that asked first.';
COMMENT ON COLUMN reply.prompt IS 'The prompt.';
COMMENT ON COLUMN reply.raw IS 'All that was answered; empty when there was no answer at all.';
COMMENT ON COLUMN reply.text IS 'The usable answer; NULL when it cannot be used.';
COMMENT ON COLUMN reply.reason IS 'Why it cannot be used, one line; NULL when it can.';

CREATE TABLE summary_point (
    run_id INTEGER NOT NULL,
    neuron_id INTEGER NOT NULL,
    position INTEGER NOT NULL,
    text VARCHAR NOT NULL,
    is_kept BOOLEAN NOT NULL,
    because VARCHAR,
    cosine DOUBLE,
    PRIMARY KEY (run_id, neuron_id, position)
);
COMMENT ON TABLE summary_point IS 'What the captions of a neuron''s highest clips have in common, point by point, and whether calibration kept it: points that its lowest clips share as well say nothing about the neuron (module B).';
COMMENT ON COLUMN summary_point.run_id IS 'Run of stage descriptions.';
COMMENT ON COLUMN summary_point.neuron_id IS 'Neuron.';
COMMENT ON COLUMN summary_point.position IS 'Order within the summary, from 0.';
COMMENT ON COLUMN summary_point.text IS 'The point.';
COMMENT ON COLUMN summary_point.is_kept IS 'False when calibration dropped it.';
COMMENT ON COLUMN summary_point.because IS 'The point of the lowest clips'' summary that made calibration drop it; NULL for kept points.';
COMMENT ON COLUMN summary_point.cosine IS 'Highest cosine of its sentence embedding to a point of the lowest clips'' summary, -1 to 1; NULL when there is none.';

CREATE TABLE concept (
    run_id INTEGER NOT NULL,
    neuron_id INTEGER NOT NULL,
    word VARCHAR NOT NULL,
    part_of_speech VARCHAR NOT NULL CHECK (part_of_speech IN ('adjective', 'noun', 'verb', 'preposition')),
    occurrences INTEGER NOT NULL,
    is_acoustic BOOLEAN,
    PRIMARY KEY (run_id, neuron_id, word, part_of_speech)
);
COMMENT ON TABLE concept IS 'Open concepts: words of a neuron''s calibrated summary (module C).';
COMMENT ON COLUMN concept.run_id IS 'Run of stage descriptions.';
COMMENT ON COLUMN concept.neuron_id IS 'Neuron.';
COMMENT ON COLUMN concept.word IS 'Word in lower case.';
COMMENT ON COLUMN concept.part_of_speech IS 'adjective (JJ*, VBN, not negated), noun, verb or preposition.';
COMMENT ON COLUMN concept.occurrences IS 'Times it occurs in the kept points.';
COMMENT ON COLUMN concept.is_acoustic IS 'Whether an adjective can describe sound, by the language model or, without one, by a list; NULL for other words and unreadable answers.';

CREATE TABLE closed_concept (
    run_id INTEGER NOT NULL,
    neuron_id INTEGER NOT NULL,
    method VARCHAR NOT NULL,
    function VARCHAR NOT NULL,
    rank INTEGER NOT NULL,
    concept VARCHAR NOT NULL,
    score DOUBLE NOT NULL,
    name_cosine DOUBLE,
    PRIMARY KEY (run_id, neuron_id, method, function, rank)
);
COMMENT ON TABLE closed_concept IS 'Which concepts of a given set fit a neuron best (module A).';
COMMENT ON COLUMN closed_concept.run_id IS 'Run of stage dissections; its parameters hold the concept set and the constants.';
COMMENT ON COLUMN closed_concept.neuron_id IS 'Neuron.';
COMMENT ON COLUMN closed_concept.method IS 'How clips and concepts were compared: DB (captions and concepts as text) or TAB (sounds and concepts by CLAP).';
COMMENT ON COLUMN closed_concept.function IS 'Similarity function: cosine, cosine_cubed, rank_reorder, wpmi or soft_wpmi.';
COMMENT ON COLUMN closed_concept.rank IS 'Rank from 1, by falling score; equal scores in the order of the concept set. A neuron for which the function is undefined has no rows.';
COMMENT ON COLUMN closed_concept.concept IS 'Concept.';
COMMENT ON COLUMN closed_concept.score IS 'Similarity; its range depends on the function.';
COMMENT ON COLUMN closed_concept.name_cosine IS 'For neurons with a name (classifier outputs): cosine of the text embeddings of name and concept, -1 to 1; NULL otherwise.';

CREATE TABLE sentence_cluster (
    run_id INTEGER NOT NULL,
    cluster INTEGER NOT NULL,
    sentences INTEGER NOT NULL,
    words VARCHAR NOT NULL,
    PRIMARY KEY (run_id, cluster)
);
COMMENT ON TABLE sentence_cluster IS 'K-means clusters of all captions'' sentences.';
COMMENT ON COLUMN sentence_cluster.run_id IS 'Run of stage polysemanticity.';
COMMENT ON COLUMN sentence_cluster.cluster IS 'Number, from 0 for the largest.';
COMMENT ON COLUMN sentence_cluster.sentences IS 'Sentences in it.';
COMMENT ON COLUMN sentence_cluster.words IS 'Its most distinctive words, best first, separated by commas.';

CREATE TABLE polysemanticity (
    run_id INTEGER NOT NULL,
    neuron_id INTEGER NOT NULL,
    k INTEGER NOT NULL,
    shared INTEGER NOT NULL,
    cluster INTEGER,
    missing INTEGER NOT NULL,
    PRIMARY KEY (run_id, neuron_id, k)
);
COMMENT ON TABLE polysemanticity IS 'Of how many of a neuron''s k highest clips the captions share a cluster of sentences: few for a polysemantic neuron (Algorithm 1).';
COMMENT ON COLUMN polysemanticity.run_id IS 'Run of stage polysemanticity.';
COMMENT ON COLUMN polysemanticity.neuron_id IS 'Neuron.';
COMMENT ON COLUMN polysemanticity.k IS 'Highest clips looked at. A neuron with fewer clips above 0 has no row.';
COMMENT ON COLUMN polysemanticity.shared IS 'Clips, at most k, that share the commonest cluster. The paper calls a neuron interpretable when shared >= tau * k, tau 3/5, 4/5 or 1.';
COMMENT ON COLUMN polysemanticity.cluster IS 'That cluster (the lowest of equals); NULL when no clip has a caption.';
COMMENT ON COLUMN polysemanticity.missing IS 'Clips without a caption.';

CREATE TABLE unlearning (
    run_id INTEGER NOT NULL,
    class_id INTEGER NOT NULL,
    chosen_by VARCHAR NOT NULL,
    repetition INTEGER NOT NULL,
    neurons INTEGER NOT NULL,
    logit_change DOUBLE NOT NULL,
    other_logit_change DOUBLE,
    correct_before INTEGER NOT NULL,
    correct_after INTEGER NOT NULL,
    total INTEGER NOT NULL,
    other_correct_before INTEGER NOT NULL,
    other_correct_after INTEGER NOT NULL,
    other_total INTEGER NOT NULL,
    PRIMARY KEY (run_id, class_id, chosen_by, repetition)
);
COMMENT ON TABLE unlearning IS 'What a classifier says of a class when the neurons dissected to it are set to zero (Table 4).';
COMMENT ON COLUMN unlearning.run_id IS 'Run of stage ablations.';
COMMENT ON COLUMN unlearning.class_id IS 'Class to unlearn.';
COMMENT ON COLUMN unlearning.chosen_by IS 'How neurons were chosen: open (a noun of the description is a word of the class name), a similarity function such as DB wpmi (class among the first three concepts), or random (as many).';
COMMENT ON COLUMN unlearning.repetition IS 'Repetition, from 0; more than one only for random choices.';
COMMENT ON COLUMN unlearning.neurons IS 'Neurons set to zero; outputs of the classifier are never among them.';
COMMENT ON COLUMN unlearning.logit_change IS 'dA: change of the mean logit of the class over its own clips.';
COMMENT ON COLUMN unlearning.other_logit_change IS 'dR: the same over the other classes, each on its own clips; NULL without any.';
COMMENT ON COLUMN unlearning.correct_before IS 'Clips of the class told rightly before.';
COMMENT ON COLUMN unlearning.correct_after IS 'Clips of the class told rightly after.';
COMMENT ON COLUMN unlearning.total IS 'Clips of the class.';
COMMENT ON COLUMN unlearning.other_correct_before IS 'Clips of other classes told rightly before.';
COMMENT ON COLUMN unlearning.other_correct_after IS 'Clips of other classes told rightly after.';
COMMENT ON COLUMN unlearning.other_total IS 'Clips of other classes.';

CREATE TABLE importance (
    run_id INTEGER NOT NULL,
    criterion VARCHAR NOT NULL,
    share DOUBLE NOT NULL,
    repetition INTEGER NOT NULL,
    neurons INTEGER NOT NULL,
    correct INTEGER NOT NULL,
    total INTEGER NOT NULL,
    PRIMARY KEY (run_id, criterion, share, repetition)
);
COMMENT ON TABLE importance IS 'Accuracy of a classifier without the neurons that score highest on a criterion (Figure 4).';
COMMENT ON COLUMN importance.run_id IS 'Run of stage ablations.';
COMMENT ON COLUMN importance.criterion IS 'nouns, adjectives, verbs, prepositions (number in the description), length (words of it), basic or high-level (kinds of adjectives), random; none with share 0 is the whole network.';
COMMENT ON COLUMN importance.share IS 'Share of the network''s neurons set to zero, 0 to 1.';
COMMENT ON COLUMN importance.repetition IS 'Repetition, from 0: random choices, and ties drawn anew.';
COMMENT ON COLUMN importance.neurons IS 'Neurons set to zero.';
COMMENT ON COLUMN importance.correct IS 'Clips told rightly.';
COMMENT ON COLUMN importance.total IS 'Clips of the tested folds.';

CREATE TABLE rating (
    rater VARCHAR NOT NULL,
    neuron_id INTEGER NOT NULL,
    description_run_id INTEGER NOT NULL,
    rating INTEGER NOT NULL CHECK (rating BETWEEN 1 AND 5),
    own_words VARCHAR,
    rated_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (rater, neuron_id, description_run_id)
);
COMMENT ON TABLE rating IS 'What people say of descriptions (Table 3): `auricle report --rating` makes the page, `auricle ingest ratings` reads its answers.';
COMMENT ON COLUMN rating.rater IS 'Name or code a rater gave.';
COMMENT ON COLUMN rating.neuron_id IS 'Neuron.';
COMMENT ON COLUMN rating.description_run_id IS 'Run of stage descriptions whose text was rated.';
COMMENT ON COLUMN rating.rating IS 'How well the text describes the sounds, 1 (not at all) to 5 (fully).';
COMMENT ON COLUMN rating.own_words IS 'The rater''s own description; NULL when left blank.';
COMMENT ON COLUMN rating.rated_at IS 'When it was read in.';

CREATE VIEW v_description AS
SELECT run_id, neuron_id, string_agg(text, ' ' ORDER BY position) FILTER (is_kept) AS description, count(*) FILTER (is_kept) AS points,
       count(*) FILTER (NOT is_kept) AS dropped
FROM summary_point GROUP BY run_id, neuron_id;
COMMENT ON VIEW v_description IS 'Descriptions: the kept points of each neuron''s summary; NULL when none was kept.';

-- Since version 4: specificity of neurons, the yardstick of planted networks, held-out scores of descriptions.

CREATE TABLE specificity (
    run_id INTEGER NOT NULL,
    neuron_id INTEGER NOT NULL,
    label_set_id INTEGER NOT NULL,
    probability DOUBLE NOT NULL,
    entropy DOUBLE,
    PRIMARY KEY (run_id, neuron_id, label_set_id)
);
COMMENT ON TABLE specificity IS 'How evenly a neuron is active over the classes of a label set (audio activation probability entropy, AAPE).';
COMMENT ON COLUMN specificity.run_id IS 'Run of stage specificity; its parameters hold the filters.';
COMMENT ON COLUMN specificity.neuron_id IS 'Neuron.';
COMMENT ON COLUMN specificity.label_set_id IS 'Label set.';
COMMENT ON COLUMN specificity.probability IS 'Mean over the classes of the share of their moments or clips, as the run''s parameter unit says, on which it is active.';
COMMENT ON COLUMN specificity.entropy IS 'AAPE in nats: 0 when only one class moves it, ln(classes) when all do alike; NULL for neurons that are never active.';

CREATE TABLE specific_neuron (
    run_id INTEGER NOT NULL,
    measure VARCHAR NOT NULL,
    neuron_id INTEGER NOT NULL,
    class_id INTEGER NOT NULL,
    value DOUBLE NOT NULL,
    PRIMARY KEY (run_id, measure, neuron_id, class_id)
);
COMMENT ON TABLE specific_neuron IS 'Which neurons a measure calls specific to which classes; a neuron may be specific to several.';
COMMENT ON COLUMN specific_neuron.run_id IS 'Run of stage specificity.';
COMMENT ON COLUMN specific_neuron.measure IS 'aape (with its three filters), lape (as published for language), or selectivity, average_precision, auroc (as many pairs as aape has, those of highest value).';
COMMENT ON COLUMN specific_neuron.neuron_id IS 'Neuron.';
COMMENT ON COLUMN specific_neuron.class_id IS 'Class.';
COMMENT ON COLUMN specific_neuron.value IS 'For aape and lape the share of the class''s moments or clips on which the neuron is active; otherwise the measure''s value.';

CREATE TABLE measure_agreement (
    run_id INTEGER NOT NULL,
    label_set_id INTEGER NOT NULL,
    first VARCHAR NOT NULL,
    second VARCHAR NOT NULL,
    pairs BIGINT NOT NULL,
    spearman DOUBLE,
    top_jaccard DOUBLE,
    PRIMARY KEY (run_id, label_set_id, first, second)
);
COMMENT ON TABLE measure_agreement IS 'How far two measures of specificity agree over all pairs of neurons and classes.';
COMMENT ON COLUMN measure_agreement.run_id IS 'Run of stage specificity.';
COMMENT ON COLUMN measure_agreement.label_set_id IS 'Label set.';
COMMENT ON COLUMN measure_agreement.first IS 'A measure.';
COMMENT ON COLUMN measure_agreement.second IS 'Another.';
COMMENT ON COLUMN measure_agreement.pairs IS 'Pairs for which both are defined.';
COMMENT ON COLUMN measure_agreement.spearman IS 'Rank correlation, -1 to 1; NULL when one is constant.';
COMMENT ON COLUMN measure_agreement.top_jaccard IS 'Jaccard index of both measures'' highest 5 % of pairs, 0 to 1.';

CREATE TABLE validation (
    run_id INTEGER NOT NULL,
    method VARCHAR NOT NULL,
    measure VARCHAR NOT NULL,
    layer VARCHAR NOT NULL,
    kind VARCHAR NOT NULL,
    correct INTEGER NOT NULL,
    total INTEGER NOT NULL,
    PRIMARY KEY (run_id, method, measure, layer, kind)
);
COMMENT ON TABLE validation IS 'How often a method finds what was planted in a network whose neurons are known by construction.';
COMMENT ON COLUMN validation.run_id IS 'Run of stage validation.';
COMMENT ON COLUMN validation.method IS 'What was put to the test: open concepts, a similarity function, a measure of specificity, clusters, polysemanticity, ablations; control: descriptions of other neurons.';
COMMENT ON COLUMN validation.measure IS 'What was counted, such as named, recall, precision, joined, removed.';
COMMENT ON COLUMN validation.layer IS 'Layer of the planted network.';
COMMENT ON COLUMN validation.kind IS 'What was planted: band, octave, loudness, class, sum, duplicate, dead, noise, ...';
COMMENT ON COLUMN validation.correct IS 'Cases found rightly.';
COMMENT ON COLUMN validation.total IS 'Cases.';

CREATE TABLE description_score (
    run_id INTEGER NOT NULL,
    neuron_id INTEGER NOT NULL,
    scorer VARCHAR NOT NULL,
    clips INTEGER NOT NULL,
    positives INTEGER NOT NULL,
    auroc DOUBLE NOT NULL,
    low DOUBLE NOT NULL,
    high DOUBLE NOT NULL,
    average_precision DOUBLE NOT NULL,
    floor DOUBLE NOT NULL,
    PRIMARY KEY (run_id, neuron_id, scorer)
);
COMMENT ON TABLE description_score IS 'How well a description alone tells which clips, none of those it was written from, activate the neuron.';
COMMENT ON COLUMN description_score.run_id IS 'Run of stage scores; its parameters name the descriptions.';
COMMENT ON COLUMN description_score.neuron_id IS 'Neuron.';
COMMENT ON COLUMN description_score.scorer IS 'How descriptions and clips are compared: captions (cosine of sentence embeddings of description and caption).';
COMMENT ON COLUMN description_score.clips IS 'Held-out clips.';
COMMENT ON COLUMN description_score.positives IS 'Of these, the ones that activate the neuron most: a tenth, all above 0.';
COMMENT ON COLUMN description_score.auroc IS 'Probability that a positive clip is put before another, 0 to 1; 0.5 is chance.';
COMMENT ON COLUMN description_score.low IS 'Lower end of the 95 % interval (DeLong et al. 1988).';
COMMENT ON COLUMN description_score.high IS 'Upper end.';
COMMENT ON COLUMN description_score.average_precision IS 'Average precision of the same ranking, 0 to 1.';
COMMENT ON COLUMN description_score.floor IS 'The 95 % quantile of the AUROC of other neurons'' descriptions for this neuron: what is no better says nothing of it.';

-- Since version 5: basic adjectives, ablations of class-specific neurons, raters' own words beside descriptions.

CREATE VIEW v_basic_adjective AS
SELECT unnest(['loud', 'quiet', 'soft', 'faint', 'high-pitched', 'mid-pitched', 'low-pitched', 'high', 'low', 'high-frequency', 'mid-frequency',
               'low-frequency', 'narrowband', 'broadband', 'short', 'long', 'fast', 'slow', 'steady', 'clear', 'high-quality']) AS word;
COMMENT ON VIEW v_basic_adjective IS 'Adjectives that name one measurable property, the four of the paper among them (AND, section 4.4); other acoustic ones are high-level.';
COMMENT ON COLUMN v_basic_adjective.word IS 'The adjective.';

CREATE TABLE specific_ablation (
    run_id INTEGER NOT NULL,
    measure VARCHAR NOT NULL,
    class_id INTEGER NOT NULL,
    target VARCHAR NOT NULL CHECK (target IN ('specific', 'random')),
    repetition INTEGER NOT NULL,
    neurons INTEGER NOT NULL,
    read_class_id INTEGER NOT NULL,
    correct INTEGER NOT NULL,
    PRIMARY KEY (run_id, measure, class_id, target, repetition, read_class_id)
);
COMMENT ON TABLE specific_ablation IS 'What a read-out still gets right when the neurons specific to a class are silenced, and when as many random neurons of the same layers are.';
COMMENT ON COLUMN specific_ablation.run_id IS 'Run of stage specific_ablations; table readout holds what its read-out gets right undisturbed, and of how many.';
COMMENT ON COLUMN specific_ablation.measure IS 'Measure of specificity that chose the neurons, as in specific_neuron.';
COMMENT ON COLUMN specific_ablation.class_id IS 'Class the silenced neurons are specific to.';
COMMENT ON COLUMN specific_ablation.target IS 'specific: these neurons; random: as many others of every layer, drawn anew for each repetition.';
COMMENT ON COLUMN specific_ablation.repetition IS 'Number of the draw, 0 for the specific neurons.';
COMMENT ON COLUMN specific_ablation.neurons IS 'Neurons silenced.';
COMMENT ON COLUMN specific_ablation.read_class_id IS 'Class whose clips are read.';
COMMENT ON COLUMN specific_ablation.correct IS 'Clips of that class recognised.';

CREATE TABLE rating_similarity (
    rater VARCHAR NOT NULL,
    neuron_id INTEGER NOT NULL,
    description_run_id INTEGER NOT NULL,
    said_by VARCHAR NOT NULL,
    cosine DOUBLE NOT NULL,
    bert_score DOUBLE,
    bert_encoder VARCHAR NOT NULL,
    PRIMARY KEY (rater, neuron_id, description_run_id, said_by)
);
COMMENT ON TABLE rating_similarity IS 'How like a rater''s own words what was said of a neuron is (AND, Table 3).';
COMMENT ON COLUMN rating_similarity.rater IS 'Rater, as in rating.';
COMMENT ON COLUMN rating_similarity.neuron_id IS 'Neuron.';
COMMENT ON COLUMN rating_similarity.description_run_id IS 'Run of stage descriptions that was rated.';
COMMENT ON COLUMN rating_similarity.said_by IS 'description (the calibrated summary), a method of dissection and its similarity function (such as DB wpmi, or ICL, which has none; its first concept), raters (mean over the other raters'' own words), or other descriptions (mean over those of the run''s other rated neurons: what chance gives).';
COMMENT ON COLUMN rating_similarity.cosine IS 'Cosine of sentence embeddings, -1 to 1.';
COMMENT ON COLUMN rating_similarity.bert_score IS 'F1 of BERTScore (Zhang et al. 2020), neither rescaled nor weighted by rarity; NULL where a text has no token.';
COMMENT ON COLUMN rating_similarity.bert_encoder IS 'Encoder of BERTScore and its layer: values of different ones cannot be compared.';

COMMENT ON COLUMN importance.criterion IS 'nouns, adjectives, verbs, prepositions (number in the description), length (words of it), basic or high-level (kinds of adjectives), an adjective in quotes (descriptions that have it), random; none with share 0 is the whole network.';

COMMENT ON COLUMN closed_concept.method IS 'How concepts were found: DB (captions and concepts compared as text), TAB (sounds and concepts by an audio-text network such as CLAP), ICL (a language model chooses one for the description).';
COMMENT ON COLUMN closed_concept.function IS 'Similarity function: cosine, cosine_cubed, rank_reorder, wpmi or soft_wpmi; icl for ICL, which has none.';
COMMENT ON COLUMN closed_concept.score IS 'Similarity; its range depends on the function. 1 for ICL, which has no scores.';

ALTER TABLE description_score ALTER COLUMN low DROP NOT NULL;
ALTER TABLE description_score ALTER COLUMN high DROP NOT NULL;
COMMENT ON COLUMN description_score.scorer IS 'How descriptions and clips are compared: captions (cosine of sentence embeddings of description and caption), audio (cosine of an audio-text network''s embeddings of description and sound), judge (a language model rates 0 to 10, from description and caption, how likely the clip activates the neuron).';
COMMENT ON COLUMN description_score.clips IS 'Held-out clips compared; for judge the few it was asked about, drawn half from the positives, half from the others.';
COMMENT ON COLUMN description_score.positives IS 'Of these, the ones that activate the neuron most: of all held-out clips a tenth, all above 0.';
COMMENT ON COLUMN description_score.low IS 'Lower end of the AUROC''s 95 % interval, by resampling the recordings that clips were cut from (clip.source_group); NULL where all positives, or all others, are of one recording.';
COMMENT ON COLUMN description_score.high IS 'Upper end.';
COMMENT ON COLUMN description_score.average_precision IS 'Average precision of the same ranking, 0 to 1; chance is positives / clips.';
COMMENT ON COLUMN description_score.floor IS 'What is no better says nothing of the neuron: the 95 % quantile of the AUROC of other neurons'' descriptions for this neuron; for judge that of the same ratings when its positives are drawn anew.';

CREATE TABLE meaning_count (
    run_id INTEGER NOT NULL,
    neuron_id INTEGER NOT NULL,
    clips INTEGER NOT NULL,
    meanings INTEGER NOT NULL,
    transfer DOUBLE,
    shared_word DOUBLE,
    PRIMARY KEY (run_id, neuron_id)
);
COMMENT ON TABLE meaning_count IS 'How many kinds of sounds a neuron answers to, by the words of its highest clips'' captions.';
COMMENT ON COLUMN meaning_count.run_id IS 'Run of stage polysemanticity.';
COMMENT ON COLUMN meaning_count.neuron_id IS 'Neuron. One with too few captioned clips above 0 has no row.';
COMMENT ON COLUMN meaning_count.clips IS 'Highest captioned clips above 0 that were looked at.';
COMMENT ON COLUMN meaning_count.meanings IS '0: words do not tell these clips from the clips that leave the neuron cold; 1: one meaning; 2: two kinds of sounds.';
COMMENT ON COLUMN meaning_count.transfer IS 'How well the words that tell one of the two most different groups from the cold clips tell the other, AUROC, mean over both directions: low for two meanings; NULL when one group is too small.';
COMMENT ON COLUMN meaning_count.shared_word IS 'Balanced accuracy, 0 to 1, of the best single word that both groups share; NULL as transfer.';

CREATE TABLE meaning (
    run_id INTEGER NOT NULL,
    neuron_id INTEGER NOT NULL,
    meaning INTEGER NOT NULL,
    clips INTEGER NOT NULL,
    coherence DOUBLE NOT NULL,
    words VARCHAR NOT NULL,
    PRIMARY KEY (run_id, neuron_id, meaning)
);
COMMENT ON TABLE meaning IS 'A kind of sounds that a neuron answers to.';
COMMENT ON COLUMN meaning.run_id IS 'Run of stage polysemanticity.';
COMMENT ON COLUMN meaning.neuron_id IS 'Neuron.';
COMMENT ON COLUMN meaning.meaning IS 'Number within the neuron, from 1 for the one with most clips.';
COMMENT ON COLUMN meaning.clips IS 'Its clips among the neuron''s highest; table meaning_clip names them.';
COMMENT ON COLUMN meaning.coherence IS 'How well the words of its other clips tell each of its clips from the cold ones, AUROC; 0.5 is chance.';
COMMENT ON COLUMN meaning.words IS 'Words that tell its clips from the cold ones, most telling first, separated by commas.';

CREATE TABLE meaning_clip (
    run_id INTEGER NOT NULL,
    neuron_id INTEGER NOT NULL,
    meaning INTEGER NOT NULL,
    clip_id INTEGER NOT NULL,
    PRIMARY KEY (run_id, neuron_id, clip_id)
);
COMMENT ON TABLE meaning_clip IS 'The clips of a kind of sounds that a neuron answers to.';
COMMENT ON COLUMN meaning_clip.run_id IS 'Run of stage polysemanticity.';
COMMENT ON COLUMN meaning_clip.neuron_id IS 'Neuron.';
COMMENT ON COLUMN meaning_clip.meaning IS 'Number within the neuron, as in meaning.';
COMMENT ON COLUMN meaning_clip.clip_id IS 'Clip.';
COMMENT ON COLUMN unlearning.chosen_by IS 'How neurons were chosen: open (a noun of the description is a word of the class name), a method of dissection and its similarity function such as DB wpmi (class among the first three concepts), ICL, or random (as many as the way that chose most).';

-- Since version 6: runs beside each other, zero-shot classification, pairs of classes, concepts rated, word clouds, measured rules, near-copies, tuning, lists and votes, maps.

CREATE TABLE zero_shot (
    run_id INTEGER NOT NULL,
    prompt VARCHAR NOT NULL,
    class_id INTEGER NOT NULL,
    told_class_id INTEGER NOT NULL,
    clips INTEGER NOT NULL,
    PRIMARY KEY (run_id, prompt, class_id, told_class_id)
);
COMMENT ON TABLE zero_shot IS 'What an audio-text network takes clips for by prompts alone: the class whose prompt''s embedding has the greatest cosine to the clip''s.';
COMMENT ON COLUMN zero_shot.run_id IS 'Run of stage zero_shot.';
COMMENT ON COLUMN zero_shot.prompt IS 'Template of the prompts, {} for the class''s name.';
COMMENT ON COLUMN zero_shot.class_id IS 'True class of the clips counted.';
COMMENT ON COLUMN zero_shot.told_class_id IS 'Class they were taken for (class.class_id).';
COMMENT ON COLUMN zero_shot.clips IS 'Clips, at least 1; pairs without a clip have no row.';

CREATE VIEW v_run AS
WITH RECURSIVE named AS (SELECT run_id, parameters::JSON AS given, unnest(json_keys(parameters::JSON)) AS name FROM run),
parameter AS (SELECT run_id, name, json_extract(given, '$."' || name || '"') AS value FROM named),
source AS ( -- the runs whose results a run read
    SELECT DISTINCT parameter.run_id, run.run_id AS source_id FROM parameter JOIN run ON run.run_key = parameter.value ->> '$'
),
reached (run_id, source_id) AS (
    SELECT run_id, run_id FROM run UNION SELECT reached.run_id, source.source_id FROM reached JOIN source ON source.run_id = reached.source_id
),
inner_name AS (SELECT run_id, name, value, unnest(json_keys(value)) AS part FROM parameter WHERE json_type(value) = 'OBJECT'),
flat AS (
    SELECT run_id, name, CASE WHEN name = 'dtype' THEN replace(value::VARCHAR, 'auto', 'float16')::JSON ELSE value END AS value
    FROM parameter WHERE json_type(value) <> 'OBJECT' AND name NOT IN ('windows', 'padding', 'units')
        AND NOT coalesce(value ->> '$' IN (SELECT run_key FROM run), false)
    UNION ALL SELECT run_id, name || '.' || part, json_extract(value, '$."' || part || '"') FROM inner_name
    UNION ALL SELECT run_id, 'seed', to_json(seed) FROM run WHERE json_extract(parameters::JSON, '$.seed') IS NULL
),
setting AS (
    SELECT reached.run_id, CASE WHEN reached.run_id = source_id THEN '' ELSE run.stage || '.' END || name AS name,
           CASE WHEN regexp_full_match(value ->> '$', '[0-9a-f]{64}') THEN left(value ->> '$', 8) ELSE left(value::VARCHAR, 80) END AS text, value::VARCHAR AS value
    FROM reached JOIN flat ON flat.run_id = source_id JOIN run ON run.run_id = source_id
    WHERE json_type(flat.value) <> 'NULL' AND name NOT IN ('dataset', 'network') AND (name <> 'clip_s' OR reached.run_id = source_id)
),
subject AS (
    SELECT run_id, stage, status, parameters::JSON ->> 'network' AS network, parameters::JSON ->> 'dataset' AS dataset, dataset_sha256, network_sha256,
           coalesce(network, network_sha256, '') AS about_network, coalesce(dataset, dataset_sha256, '') AS about_dataset,
           coalesce((SELECT string_agg(name || '=' || value, ';' ORDER BY name) FROM setting WHERE setting.run_id = run.run_id), '') AS settings
    FROM run
),
latest AS ( -- of the data set's and the checkpoint's newest content, the newest run of each choice of parameters
    SELECT * FROM (
        SELECT *, last_value(coalesce(dataset_sha256, '') || coalesce(network_sha256, '')) OVER (
                   PARTITION BY stage, about_network, about_dataset ORDER BY run_id ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS newest
        FROM subject WHERE status = 'done')
    WHERE newest = coalesce(dataset_sha256, '') || coalesce(network_sha256, '')
    QUALIFY run_id = max(run_id) OVER (PARTITION BY stage, about_network, about_dataset, settings)
),
beside AS (SELECT *, count(*) OVER (PARTITION BY stage, about_network, about_dataset) AS runs FROM latest),
telling AS ( -- what not all runs beside each other have alike
    SELECT stage, about_network, about_dataset, name FROM beside JOIN setting USING (run_id)
    GROUP BY stage, about_network, about_dataset, name HAVING count(DISTINCT value) > 1 OR count(*) < any_value(runs)
)
SELECT subject.run_id, subject.stage, subject.network, subject.dataset, latest.run_id IS NOT NULL AS is_latest,
       (SELECT string_agg(telling.name || coalesce(' = ' || text, ' not given'), ', ' ORDER BY telling.name)
        FROM telling LEFT JOIN setting ON setting.run_id = latest.run_id AND setting.name = telling.name
        WHERE telling.stage = latest.stage AND telling.about_network = latest.about_network AND telling.about_dataset = latest.about_dataset) AS parameters,
       subject.settings
FROM subject LEFT JOIN latest ON latest.run_id = subject.run_id;
COMMENT ON VIEW v_run IS 'Runs by what they are about, and which of them stand side by side: the newest finished run of a stage on a network and a data set of every choice of parameters, those of the runs that it read among them.';
COMMENT ON COLUMN v_run.run_id IS 'Run.';
COMMENT ON COLUMN v_run.stage IS 'Its stage.';
COMMENT ON COLUMN v_run.network IS 'Name of the network it is about; NULL when of none.';
COMMENT ON COLUMN v_run.dataset IS 'Name of the data set it is about; NULL when of none.';
COMMENT ON COLUMN v_run.is_latest IS 'Whether it is the newest of its parameters, on the newest content of data set and checkpoint under these names.';
COMMENT ON COLUMN v_run.parameters IS 'What tells it from the runs beside it: every parameter in which these differ, those of a run that it read behind that one''s stage; hashes by their first 8 digits. NULL when no other stands beside it.';
COMMENT ON COLUMN v_run.settings IS 'All of its parameters but network and data set, and those of the runs that it read, as one text: alike for runs made alike.';

CREATE VIEW v_specificity_pair AS
WITH latest AS (
    SELECT run_id, network, network_sha256, dataset, run.parameters::JSON ->> 'clip_s' AS clip_s, settings,
           run_id = max(run_id) OVER (PARTITION BY network, run.parameters::JSON ->> 'clip_s', dataset) AS is_newest
    FROM v_run JOIN run USING (run_id) WHERE run.stage = 'specificity' AND is_latest
)
SELECT a.run_id, b.run_id AS second_run_id FROM latest AS a JOIN latest AS b USING (network, network_sha256, clip_s)
QUALIFY a.run_id = b.run_id OR a.run_id < b.run_id AND a.dataset <> b.dataset AND (
    a.settings = b.settings OR a.is_newest AND b.is_newest
        AND NOT bool_or(a.settings = b.settings) OVER (PARTITION BY a.run_id, b.dataset)
        AND NOT bool_or(a.settings = b.settings) OVER (PARTITION BY b.run_id, a.dataset));
COMMENT ON VIEW v_specificity_pair IS 'Runs of stage specificity whose classes may share neurons: each with itself; of one network and length of clips, which makes their neurons the same, those over different data sets with the same parameters, else, as the defaults of some data sets differ, the newest of both.';
COMMENT ON COLUMN v_specificity_pair.run_id IS 'Run.';
COMMENT ON COLUMN v_specificity_pair.second_run_id IS 'The same, or a later run.';
CREATE TABLE pair_ablation (
    run_id INTEGER NOT NULL,
    measure VARCHAR NOT NULL,
    first_class_id INTEGER NOT NULL,
    second_class_id INTEGER NOT NULL,
    target VARCHAR NOT NULL CHECK (target IN ('specific', 'random', 'next')),
    repetition INTEGER NOT NULL,
    neurons INTEGER NOT NULL,
    read_class_id INTEGER NOT NULL,
    correct INTEGER NOT NULL,
    PRIMARY KEY (run_id, measure, first_class_id, second_class_id, target, repetition, read_class_id)
);
COMMENT ON TABLE pair_ablation IS 'What a read-out still gets right when all neurons specific to either of two classes are silenced, as published for AAPE.';
COMMENT ON COLUMN pair_ablation.run_id IS 'Run of stage specific_ablations; table readout holds what its read-out gets right undisturbed, and of how many.';
COMMENT ON COLUMN pair_ablation.measure IS 'Measure of specificity that chose the neurons, as in specific_neuron.';
COMMENT ON COLUMN pair_ablation.first_class_id IS 'One class the silenced neurons are specific to.';
COMMENT ON COLUMN pair_ablation.second_class_id IS 'The other one.';
COMMENT ON COLUMN pair_ablation.target IS 'specific: these neurons; random: as many others of every layer, drawn anew for each repetition; next: the unit after each, which the released program calls random.';
COMMENT ON COLUMN pair_ablation.repetition IS 'Number of the draw, 0 for the specific neurons and the next ones.';
COMMENT ON COLUMN pair_ablation.neurons IS 'Neurons silenced.';
COMMENT ON COLUMN pair_ablation.read_class_id IS 'Class whose clips are read.';
COMMENT ON COLUMN pair_ablation.correct IS 'Clips of that class recognised.';
CREATE TABLE unlearning_effect (
    run_id INTEGER NOT NULL,
    class_id INTEGER NOT NULL,
    chosen_by VARCHAR NOT NULL,
    repetition INTEGER NOT NULL,
    read_class_id INTEGER NOT NULL,
    logit_change DOUBLE NOT NULL,
    PRIMARY KEY (run_id, class_id, chosen_by, repetition, read_class_id)
);
COMMENT ON TABLE unlearning_effect IS 'What becomes of every class when the neurons dissected to one are set to zero (Figure 10).';
COMMENT ON COLUMN unlearning_effect.run_id IS 'Run of stage ablations.';
COMMENT ON COLUMN unlearning_effect.class_id IS 'Class to unlearn.';
COMMENT ON COLUMN unlearning_effect.chosen_by IS 'How neurons were chosen, as in unlearning.';
COMMENT ON COLUMN unlearning_effect.repetition IS 'Repetition, as in unlearning.';
COMMENT ON COLUMN unlearning_effect.read_class_id IS 'Class whose clips are read, the unlearned one among them.';
COMMENT ON COLUMN unlearning_effect.logit_change IS 'Change of that class''s mean logit over its own clips.';

COMMENT ON COLUMN unlearning.chosen_by IS 'How neurons were chosen: open (the description names the class), a method of dissection and its similarity function such as DB wpmi (class among the first three concepts), ICL, or as many random ones as one of these chose (random as open); random alone, of earlier runs: as many as the way that chose most.';

CREATE TABLE sentence_cluster_word (
    run_id INTEGER NOT NULL,
    cluster INTEGER NOT NULL,
    word VARCHAR NOT NULL,
    occurrences INTEGER NOT NULL,
    weight DOUBLE NOT NULL,
    PRIMARY KEY (run_id, cluster, word)
);
COMMENT ON TABLE sentence_cluster_word IS 'The words of clusters of sentences: at most a hundred each, those that occur most (Table 8).';
COMMENT ON COLUMN sentence_cluster_word.run_id IS 'Run of stage polysemanticity.';
COMMENT ON COLUMN sentence_cluster_word.cluster IS 'Cluster, as in sentence_cluster.';
COMMENT ON COLUMN sentence_cluster_word.word IS 'Word, in lower case; stop words are left out.';
COMMENT ON COLUMN sentence_cluster_word.occurrences IS 'How often it occurs in the cluster''s sentences.';
COMMENT ON COLUMN sentence_cluster_word.weight IS 'How distinctive of the cluster it is (c-TF-IDF, Grootendorst 2022).';

ALTER TABLE sentence_cluster ADD COLUMN captions INTEGER;
COMMENT ON COLUMN sentence_cluster.captions IS 'Captions with a sentence in it; NULL of runs before version 6.';

ALTER TABLE clip ADD COLUMN mean_amplitude DOUBLE;
COMMENT ON COLUMN clip.mean_amplitude IS 'Mean of the absolute value of all samples, full scale 1; NULL where not measured yet: ingesting the data set again measures it.';

CREATE TABLE concept_rating (
    rater VARCHAR NOT NULL,
    neuron_id INTEGER NOT NULL,
    description_run_id INTEGER NOT NULL,
    said_by VARCHAR NOT NULL,
    rating INTEGER NOT NULL CHECK (rating BETWEEN 1 AND 5),
    PRIMARY KEY (rater, neuron_id, description_run_id, said_by)
);
COMMENT ON TABLE concept_rating IS 'What people say of the closed concepts that stood beside a description on the rating page (Table 3).';
COMMENT ON COLUMN concept_rating.rater IS 'Rater, as in rating.';
COMMENT ON COLUMN concept_rating.neuron_id IS 'Neuron.';
COMMENT ON COLUMN concept_rating.description_run_id IS 'Run of stage descriptions that was rated with it.';
COMMENT ON COLUMN concept_rating.said_by IS 'Whose first concept was rated, as in v_said, such as DB cosine_cubed.';
COMMENT ON COLUMN concept_rating.rating IS 'How well the concept describes the sounds, 1 (not at all) to 5 (fully).';

CREATE VIEW v_said AS
WITH dissected AS (
    SELECT rated.run_id AS description_run_id, run.run_id, run.parameters::JSON ->> 'mode' = 'paper' AS is_paper
    FROM run JOIN run AS rated ON run.network_sha256 = rated.network_sha256 AND run.dataset_sha256 = rated.dataset_sha256
      AND run.parameters::JSON ->> 'network' = rated.parameters::JSON ->> 'network'
      AND run.parameters::JSON ->> 'dataset' = rated.parameters::JSON ->> 'dataset'
      AND (run.parameters::JSON ->> 'clip_s')::DOUBLE = (rated.parameters::JSON ->> 'clip_s')::DOUBLE
    WHERE run.stage = 'dissections' AND run.status = 'done' AND rated.stage = 'descriptions'
),
latest AS (
    SELECT description_run_id, method, run_id
    FROM (SELECT DISTINCT description_run_id, method, run_id, is_paper FROM closed_concept JOIN dissected USING (run_id))
    QUALIFY row_number() OVER (PARTITION BY description_run_id, method ORDER BY is_paper DESC, run_id DESC) = 1
)
SELECT description_run_id, neuron_id, CASE function WHEN 'icl' THEN method ELSE method || ' ' || function END AS said_by, concept AS text
FROM closed_concept JOIN latest USING (method, run_id) WHERE rank = 1
UNION ALL
SELECT run_id, neuron_id, 'description', description FROM v_description WHERE description IS NOT NULL;
COMMENT ON VIEW v_said IS 'What is said of neurons: the description, and the first concept of every function of each method''s latest run on the same network and data set, one in the paper''s mode where there is one.';

CREATE VIEW v_published_kind AS
WITH named AS (
    SELECT dataset_id, list_sort(list(replace(lower(class.name), '_', ' '))) AS classes
    FROM class JOIN label_set USING (label_set_id)
    WHERE label_set_id IN (SELECT min(label_set_id) FROM label_set GROUP BY dataset_id) GROUP BY dataset_id
)
SELECT run.run_id, CASE WHEN family = 'audio-spectrogram-transformer' AND NOT contains(lower(network.name), 'frozen') THEN 'AST'
                    WHEN family = 'beats' AND contains(lower(network.name), 'frozen') THEN 'BEATs-frozen'
                    WHEN family = 'beats' AND contains(lower(network.name), 'tuned') THEN 'BEATs-finetuned' END AS kind
FROM run JOIN network ON network.name = run.parameters::JSON ->> 'network' AND checkpoint_sha256 = network_sha256
  AND network.clip_s = (run.parameters::JSON ->> 'clip_s')::DOUBLE
JOIN dataset ON dataset.name = run.parameters::JSON ->> 'dataset' AND content_sha256 = dataset_sha256
JOIN named USING (dataset_id)
WHERE reader = 'esc50' AND kind IS NOT NULL
  AND classes = list_sort(list_transform(output_names::JSON::VARCHAR[], lambda name: replace(lower(name), '_', ' ')));
COMMENT ON VIEW v_published_kind IS 'Runs over the networks and the data set that Audio Network Dissection''s tables are about: AST and BEATs trained on ESC-50''s classes. BEATs are told apart by frozen or tuned in the network''s name.';
COMMENT ON COLUMN v_published_kind.run_id IS 'Run.';
COMMENT ON COLUMN v_published_kind.kind IS 'AST, BEATs-finetuned or BEATs-frozen, as in the paper''s Table 1.';

CREATE VIEW v_published_basic_adjective AS SELECT unnest(['high-pitched', 'high-quality', 'clear', 'loud']) AS word;
COMMENT ON VIEW v_published_basic_adjective IS 'The four basic adjectives of Audio Network Dissection (section 4.4).';
COMMENT ON COLUMN v_published_basic_adjective.word IS 'The adjective.';
CREATE TABLE sentence_elbow (
    run_id INTEGER NOT NULL,
    clusters INTEGER NOT NULL,
    distance DOUBLE NOT NULL,
    is_chosen BOOLEAN NOT NULL,
    PRIMARY KEY (run_id, clusters)
);
COMMENT ON TABLE sentence_elbow IS 'How far captions'' sentences lie from the centres of ever more K-means clusters; the elbow of this curve chooses their number (Thorndike 1953).';
COMMENT ON COLUMN sentence_elbow.run_id IS 'Run of stage polysemanticity with the setting elbow.';
COMMENT ON COLUMN sentence_elbow.clusters IS 'Number of clusters.';
COMMENT ON COLUMN sentence_elbow.distance IS 'Mean Euclidean distance of a sentence''s embedding, of length 1, from its cluster''s centre.';
COMMENT ON COLUMN sentence_elbow.is_chosen IS 'Whether this number was taken.';
COMMENT ON COLUMN polysemanticity.k IS 'Highest clips looked at. A neuron that is never below 0 and has fewer clips above it has no row.';
COMMENT ON COLUMN closed_concept.rank IS 'Rank from 1, by falling score; equal scores in the order of the concept set. By ICL 1 is the concept chosen, and after it come those listed. A neuron for which the function is undefined has no rows.';
COMMENT ON COLUMN closed_concept.score IS 'Similarity; its range depends on the function. For ICL, which has none, one over the rank.';
CREATE TABLE clip_property (
    run_id INTEGER NOT NULL,
    clip_id INTEGER NOT NULL,
    property VARCHAR NOT NULL,
    value DOUBLE NOT NULL,
    PRIMARY KEY (run_id, clip_id, property)
);
COMMENT ON TABLE clip_property IS 'What was measured of clips, of as much of their middle as the network hears; a property that is undefined of a clip has no row.';
COMMENT ON COLUMN clip_property.run_id IS 'Run of stage properties.';
COMMENT ON COLUMN clip_property.clip_id IS 'Clip.';
COMMENT ON COLUMN clip_property.property IS 'Property; its unit is the end of its name: hz, s, dbfs (relative to full scale), db, octaves, share (0 to 1).';
COMMENT ON COLUMN clip_property.value IS 'Its value.';

CREATE TABLE rule (
    run_id INTEGER NOT NULL,
    neuron_id INTEGER NOT NULL,
    conditions INTEGER NOT NULL,
    auroc DOUBLE,
    low DOUBLE,
    high DOUBLE,
    auroc_fewer DOUBLE,
    auroc_more DOUBLE,
    reason VARCHAR,
    PRIMARY KEY (run_id, neuron_id)
);
COMMENT ON TABLE rule IS 'What measured properties tell of each living neuron: a rule of at most three conditions, or that none tells more than chance.';
COMMENT ON COLUMN rule.run_id IS 'Run of stage descriptions with engine measured.';
COMMENT ON COLUMN rule.neuron_id IS 'Neuron.';
COMMENT ON COLUMN rule.conditions IS 'Number of conditions, which table rule_condition holds; 0 without a rule.';
COMMENT ON COLUMN rule.auroc IS 'Cross-validated over what clips were cut from, on the clips written from: probability that one of the tenth that activate the neuron most is put before another; without a rule, of the one tried. NULL where it could not be tried.';
COMMENT ON COLUMN rule.low IS 'Lower end of its 95 % interval (Obuchowski 1997, clips of one source are no independent witnesses).';
COMMENT ON COLUMN rule.high IS 'Upper end.';
COMMENT ON COLUMN rule.auroc_fewer IS 'The same of the best rule of one condition fewer; 0.5 without any.';
COMMENT ON COLUMN rule.auroc_more IS 'The same of the best rule of one condition more; NULL beyond three.';
COMMENT ON COLUMN rule.reason IS 'Why there is no rule; NULL where there is one.';

CREATE TABLE rule_condition (
    run_id INTEGER NOT NULL,
    neuron_id INTEGER NOT NULL,
    position INTEGER NOT NULL,
    property VARCHAR NOT NULL,
    direction VARCHAR NOT NULL CHECK (direction IN ('over', 'under')),
    threshold DOUBLE NOT NULL,
    weight DOUBLE NOT NULL,
    place DOUBLE NOT NULL,
    name VARCHAR NOT NULL,
    unit VARCHAR NOT NULL,
    text VARCHAR NOT NULL,
    PRIMARY KEY (run_id, neuron_id, position)
);
COMMENT ON TABLE rule_condition IS 'Conditions of rules. One holds to a degree: 1 from its threshold on, before it the share of the clips written from that lie before a clip, divided by `place`; 0 where the property is undefined. The predicted response is the weighted mean of the degrees.';
COMMENT ON COLUMN rule_condition.run_id IS 'Run of stage descriptions with engine measured.';
COMMENT ON COLUMN rule_condition.neuron_id IS 'Neuron.';
COMMENT ON COLUMN rule_condition.position IS 'From 0, by falling weight.';
COMMENT ON COLUMN rule_condition.property IS 'Property: of table clip_property, or "heard as" a tagger''s class, or "captioned" with a word.';
COMMENT ON COLUMN rule_condition.direction IS 'over or under the threshold.';
COMMENT ON COLUMN rule_condition.threshold IS 'Threshold in the property''s unit.';
COMMENT ON COLUMN rule_condition.weight IS 'Its part of the prediction, 0 to 1; those of a rule sum to 1.';
COMMENT ON COLUMN rule_condition.place IS 'Share of the clips written from that lie before the threshold, 0 to 1.';
COMMENT ON COLUMN rule_condition.name IS 'What the property is called on pages.';
COMMENT ON COLUMN rule_condition.unit IS 'Unit as pages show it; % of values from 0 to 1.';
COMMENT ON COLUMN rule_condition.text IS 'The condition in words.';

CREATE TABLE prediction_file (
    run_id INTEGER NOT NULL,
    layer_id INTEGER NOT NULL,
    path VARCHAR NOT NULL,
    neurons INTEGER NOT NULL,
    clips INTEGER NOT NULL,
    dtype VARCHAR NOT NULL,
    sha256 VARCHAR NOT NULL,
    PRIMARY KEY (run_id, layer_id)
);
COMMENT ON TABLE prediction_file IS 'Responses that rules predict, 0 to 1: NumPy .npy files, neurons x clips as those of activation_file; NaN without a rule.';
COMMENT ON COLUMN prediction_file.run_id IS 'Run of stage descriptions with engine measured.';
COMMENT ON COLUMN prediction_file.layer_id IS 'Layer.';
COMMENT ON COLUMN prediction_file.path IS 'Path relative to the folder of the database file.';
COMMENT ON COLUMN prediction_file.neurons IS 'Rows: neurons in order of neuron_id.';
COMMENT ON COLUMN prediction_file.clips IS 'Columns: clips in order of activation_clip.column_index of the run of activations.';
COMMENT ON COLUMN prediction_file.dtype IS 'float16.';
COMMENT ON COLUMN prediction_file.sha256 IS 'SHA-256 of the file.';

CREATE VIEW v_heard AS
SELECT run_id, neuron_id, list(coalesce('group ' || source_group, 'clip ' || clip_id) ORDER BY rank) AS sources
FROM top_clip JOIN clip USING (clip_id) WHERE side = 'high' AND rank <= 5 AND reduction <> 'max' AND activation <> 0
GROUP BY ALL;
COMMENT ON VIEW v_heard IS 'What a neuron''s five highest clips were cut from; neurons that share more than half of it are near-copies, which intervals count as one.';
COMMENT ON COLUMN v_heard.run_id IS 'Run of stage activations.';
COMMENT ON COLUMN v_heard.neuron_id IS 'Neuron.';
COMMENT ON COLUMN v_heard.sources IS 'Recordings, highest first, one as often as it has clips there; a clip of unknown recording is one of its own. Without clips on which the neuron is 0.';

ALTER TABLE description_score ADD COLUMN p_value DOUBLE;
COMMENT ON COLUMN description_score.p_value IS 'How often one that says nothing of the neuron scores as high: share of the other neurons'' descriptions, for judge of draws of its positives, this one counted with them. NULL in runs made before it was kept.';
COMMENT ON COLUMN description_score.low IS 'Lower end of the AUROC''s 95 % interval, over the recordings that clips were cut from (clip.source_group); NULL where the positives, or the others, are effectively of fewer than two.';
COMMENT ON COLUMN description_score.floor IS 'What is no better says nothing of the neuron: the 95 % quantile of the AUROC of other neurons'' descriptions for this neuron; for judge that of the same ratings when its positives are drawn anew, clips of one recording together.';

CREATE TABLE importance_answer (
    run_id INTEGER NOT NULL,
    criterion VARCHAR NOT NULL,
    share DOUBLE NOT NULL,
    repetition INTEGER NOT NULL,
    clip_id INTEGER NOT NULL,
    is_correct BOOLEAN NOT NULL,
    PRIMARY KEY (run_id, criterion, share, repetition, clip_id)
);
COMMENT ON TABLE importance_answer IS 'Which clips a classifier tells rightly without the neurons that score highest on a criterion; importance has the sums.';
COMMENT ON COLUMN importance_answer.run_id IS 'Run of stage ablations.';
COMMENT ON COLUMN importance_answer.criterion IS 'As in importance; none is the whole network.';
COMMENT ON COLUMN importance_answer.share IS 'Share of the network''s neurons set to zero, as in importance.';
COMMENT ON COLUMN importance_answer.repetition IS 'Repetition, from 0.';
COMMENT ON COLUMN importance_answer.clip_id IS 'Clip of the tested folds.';
COMMENT ON COLUMN importance_answer.is_correct IS 'Whether its class has the highest logit.';
CREATE TABLE stimulus (
    run_id INTEGER NOT NULL,
    clip_id INTEGER NOT NULL,
    kind VARCHAR NOT NULL,
    repeat INTEGER NOT NULL,
    level_dbfs DOUBLE NOT NULL,
    seconds DOUBLE NOT NULL,
    frequency_hz DOUBLE,
    carrier VARCHAR,
    rate_hz DOUBLE,
    depth DOUBLE,
    direction VARCHAR,
    speed DOUBLE,
    f0_hz DOUBLE,
    partials VARCHAR,
    gap_ms DOUBLE,
    density DOUBLE,
    ramp_ms DOUBLE NOT NULL,
    PRIMARY KEY (run_id, clip_id)
);
COMMENT ON TABLE stimulus IS 'What the clips of the data set stimuli are; NULL is what has no meaning for a kind.';
COMMENT ON COLUMN stimulus.run_id IS 'Run of stage tuning.';
COMMENT ON COLUMN stimulus.clip_id IS 'Clip.';
COMMENT ON COLUMN stimulus.kind IS 'tone, band (third-octave noise), level (noise), modulation, sweep, complex (of harmonics), clicks, gap, onset or ripple.';
COMMENT ON COLUMN stimulus.repeat IS 'Number of the repeat of a condition, from 1; each has other phases or noise.';
COMMENT ON COLUMN stimulus.level_dbfs IS 'RMS in decibels relative to full scale 1, without ramps, pauses and gaps.';
COMMENT ON COLUMN stimulus.seconds IS 'Duration.';
COMMENT ON COLUMN stimulus.frequency_hz IS 'Of a tone, the middle of a band, the carrier of a modulation, the middle of a sweep.';
COMMENT ON COLUMN stimulus.carrier IS 'What is modulated: tone or noise.';
COMMENT ON COLUMN stimulus.rate_hz IS 'Of modulation, of clicks, or of a ripple, which falls in frequency above 0 and rises below.';
COMMENT ON COLUMN stimulus.depth IS 'Of modulation, 0 to 1.';
COMMENT ON COLUMN stimulus.direction IS 'Of a sweep: up or down.';
COMMENT ON COLUMN stimulus.speed IS 'Of a sweep, octaves per second.';
COMMENT ON COLUMN stimulus.f0_hz IS 'Fundamental of a complex of harmonics.';
COMMENT ON COLUMN stimulus.partials IS 'all, no fundamental, or jittered (of no pitch).';
COMMENT ON COLUMN stimulus.gap_ms IS 'Silence in the middle, milliseconds.';
COMMENT ON COLUMN stimulus.density IS 'Of a ripple, cycles per octave.';
COMMENT ON COLUMN stimulus.ramp_ms IS 'Of on- and offset, milliseconds.';

CREATE TABLE tuning (
    run_id INTEGER NOT NULL,
    neuron_id INTEGER NOT NULL,
    measure VARCHAR NOT NULL,
    value DOUBLE,
    low DOUBLE,
    high DOUBLE,
    q DOUBLE,
    PRIMARY KEY (run_id, neuron_id, measure)
);
COMMENT ON TABLE tuning IS 'What a neuron is tuned to, where its responses to stimuli differ beyond chance.';
COMMENT ON COLUMN tuning.run_id IS 'Run of stage tuning.';
COMMENT ON COLUMN tuning.neuron_id IS 'Neuron.';
COMMENT ON COLUMN tuning.measure IS 'frequency_hz (best frequency of tones, mean over levels, where a tone is answered above next to no sound), bandwidth_octaves (at half height; no further than the tones go), level_dbfs (lowest level of noise with another response than next to none), monotonicity (rise from the lowest to the highest level, as part of the range; -1 to 1), tone_rate_hz, noise_rate_hz (best rates of full modulation, where above the unmodulated carrier), rate_hz (their geometric mean where they are within an octave, else the surer one), rate_holds (1 where they are, else 0), direction (of sweeps: (up - down) / (|up| + |down|)), pitch_hz (best fundamental, where it is one with and without the fundamental and jittered partials do less), gap_ms (shortest gap in noise that is told), ripple_rate_hz and ripple_density (cycles per octave; of the best ripple).';
COMMENT ON COLUMN tuning.value IS 'Value; NULL where q is above .05, or the measure is undefined otherwise.';
COMMENT ON COLUMN tuning.low IS 'Lower end of its 95 % interval over repeats; NULL where it has none.';
COMMENT ON COLUMN tuning.high IS 'Upper end.';
COMMENT ON COLUMN tuning.q IS 'False discovery rate at which the responses differ, over the neurons of the layer, for all tests of a neuron together; NULL where a response is missing.';

CREATE TABLE tuning_condition (
    run_id INTEGER NOT NULL,
    curve VARCHAR NOT NULL,
    position INTEGER NOT NULL,
    value DOUBLE,
    density DOUBLE,
    clip_id INTEGER NOT NULL,
    PRIMARY KEY (run_id, curve, position)
);
COMMENT ON TABLE tuning_condition IS 'Where the points of tuning curves lie.';
COMMENT ON COLUMN tuning_condition.run_id IS 'Run of stage tuning.';
COMMENT ON COLUMN tuning_condition.curve IS 'Curve.';
COMMENT ON COLUMN tuning_condition.position IS 'Place in tuning_curve.responses, from 0.';
COMMENT ON COLUMN tuning_condition.value IS 'Frequency, rate or fundamental in hertz, level in dBFS, octaves per second, or milliseconds; NULL where unmodulated.';
COMMENT ON COLUMN tuning_condition.density IS 'Of ripples, cycles per octave.';
COMMENT ON COLUMN tuning_condition.clip_id IS 'A clip of it: the first repeat, the loudest.';

CREATE TABLE tuning_curve (
    run_id INTEGER NOT NULL,
    neuron_id INTEGER NOT NULL,
    curve VARCHAR NOT NULL,
    responses FLOAT[] NOT NULL,
    error FLOAT NOT NULL,
    PRIMARY KEY (run_id, neuron_id, curve)
);
COMMENT ON TABLE tuning_curve IS 'Mean responses over conditions; curves that are 0 throughout have no row.';
COMMENT ON COLUMN tuning_curve.run_id IS 'Run of stage tuning.';
COMMENT ON COLUMN tuning_curve.neuron_id IS 'Neuron.';
COMMENT ON COLUMN tuning_curve.curve IS 'frequency (tones), band (third-octave noise), level, tone and noise with rate, rate at half depth, rate at a quarter of depth, unmodulated; sweep up, sweep down; harmonics, followed by all, no fundamental, jittered; clicks, gap, onset, ripple.';
COMMENT ON COLUMN tuning_curve.responses IS 'Mean response to each condition, in order of tuning_condition.position.';
COMMENT ON COLUMN tuning_curve.error IS 'Standard error of such a mean, from repeats.';

CREATE TABLE neuron_list (
    neuron_list_id INTEGER PRIMARY KEY,
    name VARCHAR NOT NULL UNIQUE,
    created_at TIMESTAMPTZ NOT NULL
);
COMMENT ON TABLE neuron_list IS 'Lists of neurons that people keep in `auricle serve`.';
COMMENT ON COLUMN neuron_list.neuron_list_id IS 'Number of the list.';
COMMENT ON COLUMN neuron_list.name IS 'What it is called.';
COMMENT ON COLUMN neuron_list.created_at IS 'When it was begun.';

CREATE TABLE listed_neuron (
    neuron_list_id INTEGER NOT NULL,
    neuron_id INTEGER NOT NULL,
    note VARCHAR,
    added_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (neuron_list_id, neuron_id)
);
COMMENT ON TABLE listed_neuron IS 'Which neurons stand on a list.';
COMMENT ON COLUMN listed_neuron.neuron_list_id IS 'List.';
COMMENT ON COLUMN listed_neuron.neuron_id IS 'Neuron.';
COMMENT ON COLUMN listed_neuron.note IS 'What was noted of it; NULL when nothing was.';
COMMENT ON COLUMN listed_neuron.added_at IS 'When it was added.';

CREATE TABLE vote (
    neuron_id INTEGER NOT NULL,
    description_run_id INTEGER NOT NULL,
    voter VARCHAR NOT NULL,
    fits BOOLEAN NOT NULL,
    voted_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (neuron_id, description_run_id, voter)
);
COMMENT ON TABLE vote IS 'Whether a description fits its neuron, as people say who look at the neuron''s page in `auricle serve`; they know whose description it is, unlike raters (table rating).';
COMMENT ON COLUMN vote.neuron_id IS 'Neuron.';
COMMENT ON COLUMN vote.description_run_id IS 'Run of stage descriptions whose description was meant.';
COMMENT ON COLUMN vote.voter IS 'Who voted: a name or a code of their own.';
COMMENT ON COLUMN vote.fits IS 'Whether it fits; the last vote counts.';
COMMENT ON COLUMN vote.voted_at IS 'When.';

-- Ends of the 95 % interval of a share of `total` that are independent: Wilson's score (Wilson 1927, J. Am. Stat. Assoc. 22).
CREATE MACRO wilson_low(share, total) AS
    round((share + 1.920729410347 / total - sqrt(3.841458820694 * (share * (1 - share) + 0.9603647051735 / total) / total)) / (1 + 3.841458820694 / total), 9) + 0;
CREATE MACRO wilson_high(share, total) AS
    round((share + 1.920729410347 / total + sqrt(3.841458820694 * (share * (1 - share) + 0.9603647051735 / total) / total)) / (1 + 3.841458820694 / total), 9) + 0;

COMMENT ON COLUMN description_score.clips IS 'Held-out clips compared; for judge and detection the few the model was asked about, half of them from the positives.';
COMMENT ON COLUMN description_score.floor IS 'What is no better says nothing of the neuron: the 95 % quantile of the AUROC of other neurons'' descriptions for this neuron; for judge and detection that of the same replies when its positives are drawn anew, clips of one recording together.';

CREATE TABLE description_test (
    run_id INTEGER NOT NULL,
    neuron_id INTEGER NOT NULL,
    scorer VARCHAR NOT NULL,
    test VARCHAR NOT NULL,
    clips INTEGER NOT NULL,
    value DOUBLE NOT NULL,
    low DOUBLE,
    high DOUBLE,
    floor DOUBLE NOT NULL,
    p_value DOUBLE NOT NULL,
    PRIMARY KEY (run_id, neuron_id, scorer, test)
);
COMMENT ON TABLE description_test IS 'Tests on held-out clips that are harder to pass than description_score.';
COMMENT ON COLUMN description_test.run_id IS 'Run of stage scores; its parameters name the descriptions.';
COMMENT ON COLUMN description_test.neuron_id IS 'Neuron.';
COMMENT ON COLUMN description_test.scorer IS 'How descriptions and clips are compared, as in description_score.';
COMMENT ON COLUMN description_test.test IS 'near misses (AUROC of the positives against as many clips, 50 at most, that are most like them, one by one, by measured properties, without these by captions, and that activate the neuron no more than its median clip does), intruder (share right, over all trials, of which of five clips does not belong: four of the 20 highest and one no higher than the median; chance is 0.2) or fuzz (AUROC of windows of sound, within a clip, for those in which the neuron''s course is at its half height or above; mean over its highest held-out clips whose course is not constant, five at least; of rules on measured properties alone, and without windows in which one of these is undefined).';
COMMENT ON COLUMN description_test.clips IS 'Held-out clips that took part.';
COMMENT ON COLUMN description_test.value IS 'AUROC or share right, 0 to 1.';
COMMENT ON COLUMN description_test.low IS 'Lower end of its 95 % interval, over the recordings that clips were cut from; NULL where these are effectively fewer than two.';
COMMENT ON COLUMN description_test.high IS 'Upper end.';
COMMENT ON COLUMN description_test.floor IS 'The 95 % quantile of what other neurons'' descriptions reach on the same clips (for intruder of 256 drawn ones).';
COMMENT ON COLUMN description_test.p_value IS 'Share of these, this one counted with them, that reach as much.';

CREATE TABLE range_clip (
    run_id INTEGER NOT NULL,
    neuron_id INTEGER NOT NULL,
    range VARCHAR NOT NULL,
    rank INTEGER NOT NULL,
    clip_id INTEGER NOT NULL,
    PRIMARY KEY (run_id, neuron_id, range, rank)
);
COMMENT ON TABLE range_clip IS 'Held-out clips from a neuron''s range beside its highest and lowest (top_clip).';
COMMENT ON COLUMN range_clip.run_id IS 'Run of stage scores.';
COMMENT ON COLUMN range_clip.neuron_id IS 'Neuron.';
COMMENT ON COLUMN range_clip.range IS 'middle (at the quantiles 90, 75 and 50 % of its values, where these are no positives) or near miss (up to five, as in description_test).';
COMMENT ON COLUMN range_clip.rank IS 'From 1: of middle clips by falling value, of near misses that of the positive they are like.';
COMMENT ON COLUMN range_clip.clip_id IS 'Clip.';

CREATE TABLE tuning_sentence (
    run_id INTEGER NOT NULL,
    neuron_id INTEGER NOT NULL,
    sentence VARCHAR NOT NULL,
    PRIMARY KEY (run_id, neuron_id)
);
COMMENT ON TABLE tuning_sentence IS 'What a neuron is tuned to, in a sentence: measures of table tuning whose intervals over repeats are narrow enough.';
COMMENT ON COLUMN tuning_sentence.run_id IS 'Run of stage tuning.';
COMMENT ON COLUMN tuning_sentence.neuron_id IS 'Neuron; one of which nothing sure can be said has no row.';
COMMENT ON COLUMN tuning_sentence.sentence IS 'The sentence.';

CREATE VIEW v_tuning AS
SELECT run.network, run.run_id, layer.name AS layer, neuron.neuron_id, unit,
       max(value) FILTER (measure = 'frequency_hz') AS frequency_hz, max(value) FILTER (measure = 'bandwidth_octaves') AS bandwidth_octaves,
       max(value) FILTER (measure = 'level_dbfs') AS level_dbfs, max(value) FILTER (measure = 'monotonicity') AS monotonicity,
       max(value) FILTER (measure = 'rate_hz') AS rate_hz, bool_or(value = 1) FILTER (measure = 'rate_holds') AS rate_holds,
       max(value) FILTER (measure = 'direction') AS direction, max(value) FILTER (measure = 'pitch_hz') AS pitch_hz,
       max(value) FILTER (measure = 'gap_ms') AS gap_ms, any_value(sentence) AS sentence
FROM v_run AS run JOIN tuning USING (run_id) JOIN neuron USING (neuron_id) JOIN layer USING (layer_id)
LEFT JOIN tuning_sentence USING (run_id, neuron_id)
WHERE run.stage = 'tuning' AND is_latest GROUP BY ALL;
COMMENT ON VIEW v_tuning IS 'What each neuron is tuned to, a row a neuron, of the latest runs of stage tuning; NULL where its responses do not differ beyond chance.';
COMMENT ON COLUMN v_tuning.network IS 'Network.';
COMMENT ON COLUMN v_tuning.run_id IS 'Run of stage tuning.';
COMMENT ON COLUMN v_tuning.layer IS 'Layer.';
COMMENT ON COLUMN v_tuning.neuron_id IS 'Neuron.';
COMMENT ON COLUMN v_tuning.unit IS 'Unit within the layer, as in neuron.';
COMMENT ON COLUMN v_tuning.frequency_hz IS 'Best frequency; see table tuning for this and the following.';
COMMENT ON COLUMN v_tuning.bandwidth_octaves IS 'Bandwidth.';
COMMENT ON COLUMN v_tuning.level_dbfs IS 'Level threshold.';
COMMENT ON COLUMN v_tuning.monotonicity IS 'Monotonicity of level.';
COMMENT ON COLUMN v_tuning.rate_hz IS 'Best rate of amplitude modulation.';
COMMENT ON COLUMN v_tuning.rate_holds IS 'Whether it is one for tones and noise.';
COMMENT ON COLUMN v_tuning.direction IS 'Of sweeps, 1 up to -1 down.';
COMMENT ON COLUMN v_tuning.pitch_hz IS 'Pitch apart from the spectrum.';
COMMENT ON COLUMN v_tuning.gap_ms IS 'Shortest gap told.';
COMMENT ON COLUMN v_tuning.sentence IS 'The same in words, as far as repeats agree.';

ALTER TABLE description_score ADD COLUMN correlation DOUBLE;
COMMENT ON COLUMN description_score.correlation IS 'Of rule and tuning, which predict responses: Spearman''s correlation of these with the activations on the held-out clips; NULL for other scorers, where either is constant, and in runs made before it was kept.';
COMMENT ON COLUMN description_score.scorer IS 'How descriptions and clips are compared: captions (cosine of sentence embeddings of description and caption), audio (the same of the sound, by an audio-text network), judge (a language model''s rating of single clips), detection (which clips of the neuron''s whole range, near misses among them, a language model names), rule (what the measured rule predicts) or tuning (what the neuron''s tuning to known stimuli predicts of the sound, whatever its description says).';

CREATE TABLE segment (
    run_id INTEGER NOT NULL REFERENCES run (run_id),
    segment INTEGER NOT NULL,
    clips INTEGER NOT NULL,
    attempt VARCHAR NOT NULL,
    sha256 VARCHAR NOT NULL,
    node VARCHAR NOT NULL,
    device VARCHAR NOT NULL,
    seconds DOUBLE NOT NULL,
    PRIMARY KEY (run_id, segment)
);
COMMENT ON TABLE segment IS 'Segments of the clips that runs of stage activations measured, each by one process: who did it. Their values stand in activation_file''s matrices.';
COMMENT ON COLUMN segment.run_id IS 'Run of stage activations.';
COMMENT ON COLUMN segment.segment IS 'Which, from 0, in order of activation_clip.column_index.';
COMMENT ON COLUMN segment.clips IS 'Its clips.';
COMMENT ON COLUMN segment.attempt IS 'The attempt that counts, of those that were made at it.';
COMMENT ON COLUMN segment.sha256 IS 'SHA-256 over the hashes of its .npy files, one a layer and reduction.';
COMMENT ON COLUMN segment.node IS 'Name of the machine.';
COMMENT ON COLUMN segment.device IS 'cpu, or the kind of GPU.';
COMMENT ON COLUMN segment.seconds IS 'Time taken.';

CREATE TABLE activation_part (
    run_id INTEGER NOT NULL REFERENCES run (run_id),
    layer_id INTEGER NOT NULL REFERENCES layer (layer_id),
    reduction VARCHAR NOT NULL,
    first_column INTEGER NOT NULL,
    clips INTEGER NOT NULL,
    sha256 VARCHAR NOT NULL,
    PRIMARY KEY (run_id, layer_id, reduction, first_column)
);
COMMENT ON TABLE activation_part IS 'Parts of the matrices of runs of more than 8192 clips, whose path in activation_file is a folder: .npy files of all neurons and some clips, named by first_column in eight digits, such as 00008192.npy.';
COMMENT ON COLUMN activation_part.run_id IS 'Run of stage activations.';
COMMENT ON COLUMN activation_part.layer_id IS 'Layer.';
COMMENT ON COLUMN activation_part.reduction IS 'Reduction, as in activation_file.';
COMMENT ON COLUMN activation_part.first_column IS 'Column of the matrix that its first column is, from 0.';
COMMENT ON COLUMN activation_part.clips IS 'Its columns.';
COMMENT ON COLUMN activation_part.sha256 IS 'SHA-256 of the file.';
COMMENT ON COLUMN activation_file.path IS 'Path relative to the folder of the database file: a file, or of a run of more than 8192 clips a folder of parts (activation_part).';
COMMENT ON COLUMN activation_file.sha256 IS 'SHA-256 of the file; of a folder, over the hashes of its parts in order.';

CREATE TABLE batch (
    run_id INTEGER NOT NULL REFERENCES run (run_id),
    batch VARCHAR NOT NULL,
    items INTEGER NOT NULL,
    node VARCHAR NOT NULL,
    device VARCHAR NOT NULL,
    python VARCHAR NOT NULL,
    packages VARCHAR NOT NULL,
    seconds DOUBLE NOT NULL,
    PRIMARY KEY (run_id, batch)
);
COMMENT ON TABLE batch IS 'Batches of sounds that were read, or of clips or prompts that a captioner or language model answered, on a cluster, committed with what came of them: who did it. Runs of one process have none.';
COMMENT ON COLUMN batch.run_id IS 'Run that asked.';
COMMENT ON COLUMN batch.batch IS 'A drawn name.';
COMMENT ON COLUMN batch.items IS 'Its sounds, clips or prompts.';
COMMENT ON COLUMN batch.node IS 'Name of the machine.';
COMMENT ON COLUMN batch.device IS 'cpu, or the kind of GPU.';
COMMENT ON COLUMN batch.python IS 'The Python that the engine ran in.';
COMMENT ON COLUMN batch.packages IS 'Versions of that Python and of packages there, as run.packages has them.';
COMMENT ON COLUMN batch.seconds IS 'Time taken.';

CREATE TABLE neuron_map (
    run_id INTEGER PRIMARY KEY,
    clips INTEGER NOT NULL,
    neurons INTEGER NOT NULL,
    placed INTEGER NOT NULL,
    unit DOUBLE NOT NULL,
    divergence DOUBLE,
    near_10 DOUBLE NOT NULL,
    near_50 DOUBLE NOT NULL,
    start_run_id INTEGER,
    shared INTEGER,
    moved DOUBLE
);
COMMENT ON TABLE neuron_map IS 'Maps of neurons: a plane on which those that answer alike lie together, and how well it keeps neighbours.';
COMMENT ON COLUMN neuron_map.run_id IS 'Run of stage map.';
COMMENT ON COLUMN neuron_map.clips IS 'Clips that correlations are over: all that the networks recorded.';
COMMENT ON COLUMN neuron_map.neurons IS 'Channels and units recorded, of all networks on the map.';
COMMENT ON COLUMN neuron_map.placed IS 'Those that have a place; the others are dead, constant, or not finite for some clip.';
COMMENT ON COLUMN neuron_map.unit IS 'Length of 1 of neuron_position in the units of t-SNE, in which a later map goes on.';
COMMENT ON COLUMN neuron_map.divergence IS 'Kullback-Leibler divergence that t-SNE ended with, nats; NULL for fewer than five neurons.';
COMMENT ON COLUMN neuron_map.near_10 IS 'Of the 10 other neurons with the highest Pearson correlation the share that is among the 10 nearest on the map: mean over up to 500 drawn neurons; by chance 10 / (placed - 1).';
COMMENT ON COLUMN neuron_map.near_50 IS 'The same among the 50 nearest on the map; by chance 50 / (placed - 1).';
COMMENT ON COLUMN neuron_map.start_run_id IS 'Run of the earlier map that it was begun from and turned onto; NULL for a first map.';
COMMENT ON COLUMN neuron_map.shared IS 'Neurons that both have.';
COMMENT ON COLUMN neuron_map.moved IS 'Root of the mean squared distance of these between both maps, in the units of neuron_position.';

CREATE TABLE neuron_position (
    run_id INTEGER NOT NULL,
    neuron_id INTEGER NOT NULL,
    x DOUBLE NOT NULL,
    y DOUBLE NOT NULL,
    PRIMARY KEY (run_id, neuron_id)
);
COMMENT ON TABLE neuron_position IS 'Where neurons lie on a map; a map of several networks has the neurons of all.';
COMMENT ON COLUMN neuron_position.run_id IS 'Run of stage map.';
COMMENT ON COLUMN neuron_position.neuron_id IS 'Neuron.';
COMMENT ON COLUMN neuron_position.x IS 'To the right. Of a first map the greatest absolute coordinate is 1; a later one is scaled to the earlier.';
COMMENT ON COLUMN neuron_position.y IS 'Upwards.';

CREATE TABLE file_hash (
    path VARCHAR PRIMARY KEY,
    size_bytes BIGINT NOT NULL,
    modified_ns BIGINT NOT NULL,
    inode UBIGINT NOT NULL,
    sha256 VARCHAR NOT NULL
);
COMMENT ON TABLE file_hash IS 'Hashes of sound files as they were when read: one whose size, time and inode are the same is not hashed again, unless asked for.';
COMMENT ON COLUMN file_hash.path IS 'Absolute path of the file, or of the sound in a container.';
COMMENT ON COLUMN file_hash.size_bytes IS 'Size of the file, or of the container.';
COMMENT ON COLUMN file_hash.modified_ns IS 'When the file, or the container, was last modified, in nanoseconds since 1970; at least 3 s before it was hashed.';
COMMENT ON COLUMN file_hash.inode IS 'Inode of the file, or of the container.';
COMMENT ON COLUMN file_hash.sha256 IS 'SHA-256 of the file, or of the sound in the container.';

COMMENT ON COLUMN neighbor.correlation IS 'Pearson correlation over the clips, -1 to 1; over as many drawn ones as the run''s parameter neighbor_clips says, where it has one. Constant neurons have no neighbours.';
