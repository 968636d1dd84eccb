/* Listening to a file or to the microphone, whose sound is sent as WAV, which every decoder reads. */
(function () {
  "use strict";
  var live = window.AURICLE_LIVE, make = live.make, frame = document.getElementById("result"), recorder = null, LONGEST_S = 30;
  function by(id) { return document.getElementById(id); }
  function wav(buffer) {
    var count = buffer.length, view = new DataView(new ArrayBuffer(44 + 2 * count)), channels = [];
    for (var c = 0; c < buffer.numberOfChannels; c++) { channels.push(buffer.getChannelData(c)); }
    function text(at, word) { for (var i = 0; i < word.length; i++) { view.setUint8(at + i, word.charCodeAt(i)); } }
    text(0, "RIFF"); view.setUint32(4, 36 + 2 * count, true); text(8, "WAVEfmt "); view.setUint32(16, 16, true); view.setUint16(20, 1, true); view.setUint16(22, 1, true);
    view.setUint32(24, buffer.sampleRate, true); view.setUint32(28, 2 * buffer.sampleRate, true); view.setUint16(32, 2, true); view.setUint16(34, 16, true); text(36, "data"); view.setUint32(40, 2 * count, true);
    for (var i = 0; i < count; i++) {
      var sum = channels.reduce(function (before, channel) { return before + channel[i]; }, 0) / channels.length;
      view.setInt16(44 + 2 * i, Math.round(32767 * Math.max(-1, Math.min(1, sum))), true);
    }
    return new Blob([view.buffer], {type: "audio/wav"});
  }
  function send(file, name) {
    var data = new FormData();
    data.set("run", by("run").value);
    data.set("file", file, name);
    live.say("Listening …");
    frame.hidden = true;
    return fetch("/live/listen", {method: "POST", body: data}).then(function (response) {
      if (!response.ok) { return live.answer(response); }
      return response.text().then(function (page) {
        frame.srcdoc = page.replace("<head>", '<head><base href="/" target="_top">');
        frame.hidden = false;
        live.say("");
      });
    }).catch(live.fail);
  }
  document.getElementById("listening").addEventListener("submit", function (event) {
    event.preventDefault();
    var file = by("file").files[0];
    if (!file) { live.say("Choose a sound first, or record one.", true); return; }
    send(file, file.name);
  });
  by("record").addEventListener("click", function () {
    if (recorder) { recorder.stop(); return; }
    navigator.mediaDevices.getUserMedia({audio: true}).then(function (stream) {
      var parts = [], clock;
      recorder = new MediaRecorder(stream);
      recorder.ondataavailable = function (event) { parts.push(event.data); };
      recorder.onstop = function () {
        clearTimeout(clock);
        recorder = null;
        by("record").textContent = "Record";
        stream.getTracks().forEach(function (track) { track.stop(); });
        new Blob(parts).arrayBuffer().then(function (data) { return new AudioContext().decodeAudioData(data); })
          .then(function (buffer) { return send(wav(buffer), "recording.wav"); }).catch(live.fail);
      };
      recorder.start();
      clock = setTimeout(function () { recorder.stop(); }, 1000 * LONGEST_S);
      by("record").textContent = "Stop";
      live.say("Recording, " + LONGEST_S + " s at most …");
    }).catch(live.fail);
  });
  live.get("runs.json").then(function (found) {
    if (!found.runs.length) { throw new Error("The warehouse holds no finished run of activations."); }
    by("run").replaceChildren.apply(by("run"), found.runs.map(function (its) { return make("option", {value: its.run, text: its.title + " (run " + its.run + ")"}); }));
  }).catch(live.fail);
})();
