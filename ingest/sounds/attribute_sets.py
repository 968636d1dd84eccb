"""Readers of the sets by whose attributes neurons are compared, in their official layouts: who speaks and how, what sounds, at which pitch.

Label sets that several data sets have (`gender`, `language`, `octave`, `note`, and `category` of ESC-50) name their classes alike in all of
them, so that neurons can be compared across sets. Clips of the published study of neurons: CREMA-D 7438, VoxCeleb1 1500, VoxForge 30 000,
GISE-51 16 357, Surge all pitches.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator
from pathlib import Path

from ingest.sounds.listing import Gathered, Listing, files_in, ordered, raise_unreadable
from ingest.sounds.metadata import show
from ingest.sounds.notes import NOTES
from warehouse.store import UserError

SOUND = r".+\.(?i:wav|flac|ogg|mp3|m4a)"
MAX_PEOPLE_BYTES = 1 << 20  # VoxCeleb1's table of 1251 speakers has 50 kB
MAX_README_BYTES = 1 << 16

CREMA_D_NAME = re.compile(r"([0-9]{4})_([A-Z]{3})_([A-Z]{3})_(LO|MD|HI|XX?)\.\w+")  # one file ends in _X
CREMA_D_EMOTIONS = {"ANG": "anger", "DIS": "disgust", "FEA": "fear", "HAP": "happiness", "NEU": "neutral", "SAD": "sadness"}
CREMA_D_LEVELS = {"LO": "low", "MD": "medium", "HI": "high"}
CREMA_D_SENTENCES = {
    "DFA": "Don't forget a jacket",
    "IEO": "It's eleven o'clock",
    "IOM": "I'm on my way to the meeting",
    "ITH": "I think I have a doctor's appointment",
    "ITS": "I think I've seen this before",
    "IWL": "I would like a new alarm clock",
    "IWW": "I wonder what this is about",
    "MTI": "Maybe tomorrow it will be cold",
    "TAI": "The airplane is almost full",
    "TIE": "That is exactly what happened",
    "TSI": "The surface is slick",
    "WSI": "We'll stop in a couple of minutes",
}
# Binary arousal as in Schuller et al. 2009 (DOI 10.1109/ASRU.2009.5372886), the grouping usual in cross-corpus work.
AROUSAL = {"anger": "high", "fear": "high", "happiness": "high", "disgust": "low", "neutral": "low", "sadness": "low"}

VOXCELEB1_ROOTS = ("wav", "", "dev/wav", "test/wav", "vox1_dev_wav/wav", "vox1_test_wav/wav")

LANGUAGES = {
    **{"bg": "Bulgarian", "ca": "Catalan", "de": "German", "el": "Greek", "en": "English", "es": "Spanish", "fa": "Persian"},
    **{"fr": "French", "he": "Hebrew", "hr": "Croatian", "it": "Italian", "nl": "Dutch", "pt": "Portuguese", "ru": "Russian"},
    **{"sq": "Albanian", "tr": "Turkish", "uk": "Ukrainian", "zh": "Chinese", "speechcorpus": "English"},  # the repository's oldest folder
}
LANGUAGE_LINE = re.compile(r"(?im)^[ \t]*language[ \t]*:[ \t]*(\S+)")
GENDER_LINE = re.compile(r"(?im)^[ \t]*(?:gender|sexe?|geschlecht|g\w{1,2}nero|sesso|пол)[ \t]*:[ \t]*(.*)$")
# Words of the submission programs in the languages above; letters with accents may have been damaged into one or two others.
GENDER_WORDS = {
    "female": re.compile(r"(?i)f|fem\w*|f.{1,2}minin\w*|weib\w*|wom[ae]n|frau|vrouw|mujer|donna|жен\w*"),
    "male": re.compile(r"(?i)m|male|masc\w*|maschi\w*|m.{1,2}nn\w*|man|homme|hombre|uomo|муж\w*"),
}

GISE_SPLITS = ("train", "val", "eval")
# Events of GISE-51 that a class of ESC-50 names as well; its waves are left out, being one class with splashes and streams.
ESC50_CATEGORIES = {
    **{"Chirp_and_tweet": "chirping_birds", "Clapping": "clapping", "Cough": "coughing", "Cricket": "crickets", "Dog": "dog"},
    **{"Fireworks": "fireworks", "Laughter": "laughing", "Shatter": "glass_breaking", "Thunder": "thunderstorm"},
    **{"Toilet_flush": "toilet_flush", "Train": "train", "Walk_and_footsteps": "footsteps", "Wind": "wind"},
}

CREMA_D_LICENSE = (
    "CREMA-D: H. Cao, D. G. Cooper, M. K. Keutmann, R. C. Gur, A. Nenkova and R. Verma (2014), ODbL 1.0, its contents DbCL 1.0"
)
VOXCELEB1_LICENSE = "VoxCeleb1: A. Nagrani, J. S. Chung and A. Zisserman (2017), CC BY 4.0; the sounds remain their owners'"
VOXFORGE_LICENSE = "VoxForge speech corpus, voxforge.org, GPL 3.0; each submission names its speaker and licence"
GISE_51_LICENSE = "GISE-51: S. Yadav and M. E. Foster (2021), CC BY 4.0; cut from FSD50K, sounds by users of freesound.org"


def read_crema_d(source: Path, name: str | None = None) -> Listing:
    """CREMA-D (Cao et al. 2014, DOI 10.1109/TAFFC.2014.2336244): AudioWAV/ and VideoDemographics.csv.

    Sounds are called ACTOR_SENTENCE_EMOTION_LEVEL.wav; they may also lie beside the table. Label sets: `emotion` (six), as the actor was
    asked for; `arousal`, high for anger, fear and happiness, low for the others (see AROUSAL); `gender`; `level` of the emotion, which most
    clips do not have; `sentence` (twelve); `speaker`. The group is the speaker. No folds.
    """
    folder = "AudioWAV" if (source / "AudioWAV").is_dir() else ""
    gathered = Gathered(None, source)
    files = files_in(source / folder, r"[0-9]{4}_" + SOUND)
    speakers = _people(source, "VideoDemographics.csv", "ActorID", ("Sex",)) if files else {}
    for file in files:
        path, parts = f"{folder}/{file}".lstrip("/"), CREMA_D_NAME.fullmatch(file)
        if not parts or parts[2] not in CREMA_D_SENTENCES or parts[3] not in CREMA_D_EMOTIONS:
            gathered.reject(None, path, "the name is not ACTOR_SENTENCE_EMOTION_LEVEL.wav with CREMA-D's abbreviations")
        elif parts[1] not in speakers:
            gathered.reject(None, path, f"actor {parts[1]} is not in VideoDemographics.csv")
        else:
            emotion = CREMA_D_EMOTIONS[parts[3]]
            labels: dict[str, object] = {"emotion": emotion, "arousal": AROUSAL[emotion], "gender": _gender(speakers[parts[1]]["Sex"])}
            labels |= {"level": CREMA_D_LEVELS.get(parts[4]), "sentence": CREMA_D_SENTENCES[parts[2]], "speaker": parts[1]}
            gathered.add(None, path, labels, None, parts[1])
    needs = "AudioWAV/1001_DFA_ANG_XX.wav, ... and VideoDemographics.csv"
    listing = _listing(gathered, name, "crema-d", source, CREMA_D_LICENSE, needs)
    return ordered(listing, arousal=("low", "high"), level=CREMA_D_LEVELS.values())


def read_voxceleb1(source: Path, name: str | None = None) -> Listing:
    """VoxCeleb1 (Nagrani et al. 2017, arXiv:1706.08612): wav/SPEAKER/VIDEO/00001.wav and vox1_meta.csv.

    The dev part, the test part or both. Label sets `gender` and `nationality`; the group is the speaker. Speakers are no label set: there
    are 1251, and every neuron would have a row for each. No folds.
    """
    roots = [root for root in VOXCELEB1_ROOTS if files_in(source / root, r"id1[0-9]{4}")]
    speakers = _people(source, "vox1_meta.csv", "VoxCeleb1 ID", ("Gender", "Nationality")) if roots else {}
    gathered = Gathered(None, source)
    for root in roots:
        for speaker in files_in(source / root, r"id1[0-9]{4}"):
            folder, person = f"{root}/{speaker}".lstrip("/"), speakers.get(speaker)
            if person is None:
                gathered.reject(None, folder, f"speaker {speaker} is not in vox1_meta.csv")
                continue
            labels: dict[str, object] = {"gender": _gender(person["Gender"]), "nationality": person["Nationality"]}
            for video in files_in(source / folder, r".+"):
                for file in files_in(source / folder / video, SOUND):
                    gathered.add(None, f"{folder}/{video}/{file}", labels, None, speaker)
    return _listing(gathered, name, "voxceleb1", source, VOXCELEB1_LICENSE, "wav/id10001/VIDEO/00001.wav, ... and vox1_meta.csv")


def read_voxforge(source: Path, name: str | None = None) -> Listing:
    """VoxForge (voxforge.org): unpacked submissions SPEAKER-DATE-CODE/ with wav/ or flac/ and etc/README, below folders of languages.

    They may lie at any depth. Label sets: `language`, by the nearest folder above that names one (de, German, SpeechCorpus, ...), else as
    README says; `gender` as README says, in any of the main languages. What a missing or damaged README does not say stays unlabelled. The
    group is the speaker; of anonymous ones, whom nobody can tell apart, the submission. No folds. Archives are not unpacked here.
    """
    gathered = Gathered(None, source)
    for submission, audio in _submissions(source):
        below, readme = submission.relative_to(source), _readme(submission / "etc")
        above = (source.resolve().name, *below.parts)[:-1]
        said = next(iter(LANGUAGE_LINE.findall(readme)), "")
        language = next(filter(None, map(_language, (*reversed(above), said))), None)
        genders = GENDER_LINE.findall(readme)
        labels: dict[str, object] = {"language": language, "gender": next(filter(None, map(_gender, genders)), None)}
        title = submission.resolve().name
        dated = re.fullmatch(r"(.+)-[0-9]{8}-\w+", title)
        speaker = dated[1] if dated else title
        group = title if speaker.lower().startswith(("anonym", "anonim", "unknown")) else speaker
        for file in files_in(submission / audio, SOUND):
            gathered.add(None, (below / audio / file).as_posix(), labels, None, group)
    needs = "de/SPEAKER-20100101-abc/wav/*.wav, ... (unpack the .tgz archives first)"
    return _listing(gathered, name, "voxforge", source, VOXFORGE_LICENSE, needs)


def read_gise_51(source: Path, name: str | None = None) -> Listing:
    """GISE-51 (Yadav and Foster 2021, arXiv:2103.12306): {train,val,eval}/EVENT/NUMBER.wav, here or in isolated_events/.

    Label sets: `event` (51) as the folders say, and `category`, ESC-50's name of the 13 events that it has, too. The group is the Freesound
    recording by whose number the name begins. No folds. The mixtures are not read.
    """
    base = "isolated_events" if (source / "isolated_events").is_dir() else ""
    gathered = Gathered(None, source)
    for split in GISE_SPLITS:
        for event in files_in(source / base / split, r".+"):
            labels: dict[str, object] = {"event": event, "category": ESC50_CATEGORIES.get(event)}
            for file in files_in(source / base / split / event, SOUND):
                number = re.match(r"[0-9]+", file)
                gathered.add(None, f"{base}/{split}/{event}/{file}".lstrip("/"), labels, None, number[0] if number else None)
    return _listing(gathered, name, "gise-51", source, GISE_51_LICENSE, "isolated_events/train/Applause/*.wav, ...")


def read_surge(source: Path, name: str | None = None) -> Listing:
    """Surge pitch set (Turian et al. 2021, arXiv:2104.12922; Zenodo 4677097): surge/PRESET-velocity64/noteNNN.ogg.

    NNN is a MIDI pitch; the folders of presets may also lie here. Label sets: `pitch` (21 to 108), `octave` (0 to 8 in scientific notation:
    MIDI pitch 60 is C4) and `note`, as in NSynth. The group is the preset. No folds.
    """
    base = "surge" if (source / "surge").is_dir() else ""
    gathered = Gathered(None, source)
    for preset in files_in(source / base, r".+-velocity[0-9]+"):
        for file in files_in(source / base / preset, SOUND):
            path, found = f"{base}/{preset}/{file}".lstrip("/"), re.fullmatch(r"(?:note)?([0-9]{1,3})\.\w+", file)
            if not found or (pitch := int(found[1])) > 127:
                gathered.reject(None, path, "the name is not noteNNN.ogg with a MIDI pitch from 0 to 127")
            else:
                labels: dict[str, object] = {"pitch": pitch, "octave": pitch // 12 - 1, "note": NOTES[pitch % 12]}
                gathered.add(None, path, labels, None, preset)
    return ordered(_listing(gathered, name, "surge", source, None, "surge/PRESET-velocity64/note060.ogg, ..."), note=NOTES)


def _listing(gathered: Gathered, name: str | None, reader: str, source: Path, license_: str | None, needs: str) -> Listing:
    """What was gathered; a UserError saying what the reader needs where it found nothing at all."""
    if not gathered.entries and not gathered.rejected:
        raise UserError(f"folder {show(source)} holds no sounds in the right places: reader {reader} needs {needs}")
    return gathered.listing(name or reader, reader, source, license_)


def _people(source: Path, table: str, key: str, columns: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """Rows of a table of people by column `key`; commas or tabs part its cells. Raises UserError where it cannot be used."""
    path = source / table
    try:
        if not path.is_file() or path.stat().st_size > MAX_PEOPLE_BYTES:
            raise UserError(f"{show(path)} is missing or no table of people: put the data set's own {table} there")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        tabs = "\t" in next(iter(lines), "")
        rows = csv.DictReader(lines, delimiter="\t" if tabs else ",", quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL, restval="")
        rows.fieldnames = [column.strip() for column in rows.fieldnames or ()]
        found = [{column: cell.strip() for column, cell in row.items() if column and isinstance(cell, str)} for row in rows]
    except OSError as error:
        raise UserError(f"{show(path)} cannot be read: {error.strerror or error}") from None
    except (UnicodeDecodeError, csv.Error):
        raise UserError(f"{show(path)} is not a table in UTF-8: download it again") from None
    if missing := [column for column in (key, *columns) if column not in rows.fieldnames]:
        raise UserError(f"{show(path)} has no column {missing[0]}: download it again")
    return {row[key]: row for row in found}


def _submissions(source: Path) -> Iterator[tuple[Path, str]]:
    """Folders that hold wav/ or flac/ with sounds, and which of the two; in the order of their names."""
    for folder, folders, _ in os.walk(source, onerror=raise_unreadable):
        audio = next((audio for audio in ("wav", "flac") if audio in folders and files_in(Path(folder, audio), SOUND)), None)
        folders[:] = [] if audio else sorted(item for item in folders if not item.startswith((".", "__MACOSX")))
        if audio:
            yield Path(folder), audio


def _readme(folder: Path) -> str:
    """The README of a submission, as far as it can be read; empty where there is none."""
    for file in files_in(folder, r"(?i:readme(\.txt)?)"):
        try:
            if (folder / file).is_file():
                with (folder / file).open("rb") as opened:
                    content = opened.read(MAX_README_BYTES)
                try:
                    return content.decode("utf-8-sig")
                except UnicodeDecodeError:
                    return content.decode("cp1251", "replace")  # Russian ones; Western ones lose only their accents
        except OSError:
            continue
    return ""


def _language(text: str) -> str | None:
    """The language that a code (de, PT_BR) or a folder (German, SpeechCorpus) names, None for anything else."""
    code = re.sub(r"[-_][a-z]{2}$", "", text.lower())
    return LANGUAGES.get(code) or next((language for language in LANGUAGES.values() if language.lower() == code), None)


def _gender(text: str) -> str | None:
    """female or male where the text has a word for exactly one of them."""
    words = re.split(r"[\s\[\]().,:;/|-]+", text)
    found = [gender for gender, pattern in GENDER_WORDS.items() if any(pattern.fullmatch(word) for word in words)]
    return found[0] if len(found) == 1 else None
