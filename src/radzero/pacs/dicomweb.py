"""Use a DICOMweb server (PS3.18): find images by QIDO-RS, fetch them by WADO-RS, store results by STOW-RS."""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from pydicom.dataset import Dataset

from radzero.images import Reason
from radzero.images.radiograph import refusing
from radzero.pacs.process import NotTakenError, UnreachableError
from radzero.service.settings import is_loopback

if TYPE_CHECKING:
    from requests import PreparedRequest, Response

T = TypeVar("T")
_PAGE = 100
_PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)
_FOR_A_WHILE = frozenset((408, 425, 429, 500, 502, 503, 504))


@dataclass(frozen=True)
class FilmAddress:
    """UIDs by which an image is fetched from a server: of its study, its series and the image itself."""

    study: str
    series: str
    instance: str


@dataclass(frozen=True)
class Credentials:
    """Credentials for a server; they are shown nowhere.

    Attributes:
        token: bearer token.
        user, password: user and password of basic authentication, used where there is no token.
        variables: prefix of the names of the environment variables, for messages.
    """

    token: str = field(default="", repr=False)
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    variables: str = "RADZERO_DICOMWEB"

    @classmethod
    def of_environment(cls, variables: str = "RADZERO_DICOMWEB") -> "Credentials":
        """Read ``..._TOKEN``, ``..._USER`` and ``..._PASSWORD`` from the environment, where it has them."""
        token, user, password = (os.environ.get(f"{variables}_{name}", "") for name in ("TOKEN", "USER", "PASSWORD"))
        return cls(token.strip(), user, password, variables)

    def __call__(self, request: "PreparedRequest") -> "PreparedRequest":
        """Put the credentials on a request; as ``auth`` of a session they are not sent on to another host."""
        from requests.auth import HTTPBasicAuth

        if self.token:
            request.headers["Authorization"] = f"Bearer {self.token}"
        elif self.user:
            return HTTPBasicAuth(self.user, self.password)(request)
        return request


class DicomWeb:
    """A server that images are fetched from, or that results are stored on.

    Args:
        url: URL of the service, such as ``http://localhost:8042/dicom-web``.
        credentials: credentials sent with every request to this server; none by default.
        timeout: seconds to wait for one request.

    Attributes:
        name: URL of the server.
        place: scheme, host and port.
        encrypted: whether nobody on the way can read the requests (HTTPS, or a server on this machine).
        stopping: function that returns whether the program is to end, so that no further try is made.

    Raises:
        ValueError: when the URL is not an http or https URL, or holds a user or password.
        ImportError: when dicomweb-client is missing; the message says what to install.
    """

    def __init__(self, url: str, credentials: "Credentials | None" = None, *, timeout: float = 60.0) -> None:
        try:
            import requests
            from dicomweb_client.api import DICOMwebClient
        except ImportError as error:
            raise ImportError("DICOMweb needs dicomweb-client: pip install 'radzero[dicom]'") from error
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
            raise ValueError(
                f"{parts.scheme}://{parts.hostname}: name a server as https://HOST/PATH, without a password"
            )
        self.name = url.rstrip("/")
        self.stopping: Callable[[], bool] = lambda: False
        self.place = (parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}[parts.scheme])
        self.encrypted = parts.scheme == "https" or is_loopback(parts.hostname)
        session = requests.Session()
        self.credentials = credentials or Credentials()
        session.auth = self.credentials
        session.hooks["response"].append(_refuse_half)
        logging.getLogger("dicomweb_client").setLevel(logging.WARNING)
        self._client = DICOMwebClient(self.name, session=session, timeout=timeout, permissive_uid=True)
        self._client.set_http_retry_params(retry=False)  # retried here, so that errors say what failed

    def films(
        self,
        modalities: tuple[str, ...],
        query: Mapping[str, str],
        on_problem: Callable[[str, str], None] = lambda series, why: None,
    ) -> Iterator[FilmAddress]:
        """Yield the images of these modalities that match, page by page.

        Args:
            modalities: modalities, such as CR and DX.
            query: further QIDO keys, such as ``StudyDate``: ``20260101-20261231``.
            on_problem: called with the UID of a series that cannot be listed and the reason; other series follow.

        Raises:
            UnreachableError: when the server does not answer.
        """
        for modality in modalities:
            filters = {**query, "Modality": modality}
            find = partial(self._client.search_for_series, search_filters=filters, limit=_PAGE)
            for series in self._pages(find, whole=True):
                study, number = _value(series, "0020000D"), _value(series, "0020000E")
                find = partial(self._client.search_for_instances, study, number, limit=_PAGE)
                try:
                    for instance in self._pages(find, whole=False):
                        yield FilmAddress(study, number, _value(instance, "00080018"))
                except NotTakenError as error:
                    on_problem(number or "a series without UID", f"{error}")

    def fetch(self, film: FilmAddress) -> bytes:
        """Return an image's DICOM file as bytes.

        Raises:
            UnreachableError: when it cannot be fetched.
            RadiographError: when the server's object cannot be written as a DICOM file.
        """
        dataset = self._patiently(
            f"the film {film.instance}",
            lambda: self._client.retrieve_instance(film.study, film.series, film.instance),
        )
        content = BytesIO()
        with refusing(film.instance, Reason.BAD_HEADER, "the server's file cannot be written anew", "Check it there"):
            dataset.save_as(content, enforce_file_format=True)
        return content.getvalue()

    def holds(self, result: Dataset) -> bool:
        """Return whether the server has a result."""
        found = self._patiently(
            "a result",
            lambda: self._client.search_for_instances(
                result.StudyInstanceUID, search_filters={"SOPInstanceUID": str(result.SOPInstanceUID)}
            ),
        )
        return any(_value(item, "00080018") == result.SOPInstanceUID for item in found)

    def store(self, result: Dataset) -> None:
        """Store a result.

        Raises:
            UnreachableError: when the server did not store it, or neither confirms that it did nor has it.
        """
        try:
            self._store(result, f"the result {result.SOPInstanceUID}")
        except NotTakenError:
            if not self.holds(result):
                raise

    def _store(self, result: Dataset, what: str) -> None:
        tried = False

        def send() -> Dataset | None:
            nonlocal tried
            if tried and self.holds(result):  # an earlier try arrived, but its answer did not
                return None
            tried = True
            return self._client.store_instances([result], result.StudyInstanceUID)

        answer = self._patiently(what, send)
        if answer is None:
            return
        if failed := answer.get("FailedSOPSequence"):
            raise NotTakenError(f"{self.name} did not store {what}: reason {failed[0].get('FailureReason', 'unknown')}")
        taken = [item.get("ReferencedSOPInstanceUID") for item in answer.get("ReferencedSOPSequence") or ()]
        if result.SOPInstanceUID not in taken:  # a login page comes with status 200 too
            raise NotTakenError(f"{self.name} did not say that it stored {what}, and does not have it; check the URL")

    def _pages(self, search: Callable[..., list[dict[str, Any]]], *, whole: bool) -> Iterator[dict[str, Any]]:
        """Yield all matches of all pages, each once; this also ends with a server that ignores ``offset``."""
        seen: set[str] = set()
        offset = 0
        while True:
            page = self._patiently("its films", partial(search, offset=offset), whole=whole)
            fresh = [item for item in page if _identity(item) not in seen]
            seen.update(map(_identity, fresh))
            yield from fresh
            if not fresh:  # a short page need not be the last: servers may send fewer than requested
                return
            offset += len(page)

    def _hint(self, status: int) -> str:
        if status in (401, 403):
            name = self.credentials.variables
            return f"; set {name}_TOKEN, or {name}_USER and {name}_PASSWORD"
        return "; check the URL, which ends in /dicom-web with Orthanc" if status == 404 else ""

    def _patiently(self, what: str, work: Callable[[], T], *, whole: bool = False) -> T:
        """Return the result of work that is tried again while the server is busy or does not answer.

        Args:
            what: name of what is requested, for messages.
            work: the request.
            whole: whether nothing else can be done without it.

        Raises:
            NotTakenError: when the server answers, but not to this request.
            UnreachableError: when it does not answer or refuses the credentials, or ``whole`` is set.
        """
        import requests

        status = 0
        for pause in (*_PAUSES, None):
            try:
                return work()
            except requests.HTTPError as error:
                status = error.response.status_code if error.response is not None else 0
                problem = f"{self.name} answered {status} to a request for {what}"
                if status not in _FOR_A_WHILE:
                    kind = UnreachableError if whole or status in (401, 403) else NotTakenError
                    raise kind(f"{problem}{self._hint(status)}") from error
            except (requests.RequestException, OSError) as error:
                status = 0
                problem = f"{self.name} does not answer ({type(error).__name__}) to a request for {what}"
            except Exception as error:  # dicomweb-client and pydicom raise various errors when an answer is not DICOM
                kind = UnreachableError if whole else NotTakenError
                problem = f"{self.name} gave an answer to a request for {what} that cannot be read"
                raise kind(f"{problem} ({type(error).__name__}: {' '.join(str(error).split())[:200]})") from error
            if pause is None or self.stopping():
                break
            time.sleep(pause)
        # a server that answers one image with 500 may answer others; 502 to 504 mean that it cannot be reached
        kind = NotTakenError if status == 500 and not whole else UnreachableError
        raise kind(f"{problem}, several times")


def open_servers(url: str, store_url: str | None) -> tuple[DicomWeb, DicomWeb]:
    """Open the server of the images and that of the results, each with its own credentials and never the other's.

    Args:
        url: URL of the images' server, which gets the credentials of RADZERO_DICOMWEB.
        store_url: URL of the results' server; None for the images' server. A server of another scheme, host or port
            gets the credentials of RADZERO_DICOMWEB_STORE instead.

    Raises:
        ValueError, ImportError: as :class:`DicomWeb`.
    """
    films = DicomWeb(url, Credentials.of_environment())
    if store_url is None:
        return films, films
    results = DicomWeb(store_url, films.credentials)
    if results.place != films.place:
        results = DicomWeb(store_url, Credentials.of_environment("RADZERO_DICOMWEB_STORE"))
    return films, results


def _refuse_half(response: "Response", **_: Any) -> None:
    """Refuse a multipart answer that was cut short; nothing else reveals that where no length was announced."""
    from requests import ConnectionError as ConnectionLost

    kind, *parameters = (part.strip() for part in response.headers.get("content-type", "").split(";"))
    measured = "content-length" in response.headers or "transfer-encoding" in response.headers
    boundary = next((p.partition("=")[2].strip('"') for p in parameters if p.lower().startswith("boundary=")), "")
    measured = measured or kind.lower() != "multipart/related" or not boundary
    if not measured and f"--{boundary}--".encode() not in response.content[-len(boundary) - 1000 :]:
        raise ConnectionLost("the answer was cut short")


def _value(item: Mapping[str, Any], tag: str) -> str:
    values = item.get(tag, {}).get("Value") or [""]
    return str(values[0])


def _identity(item: Mapping[str, Any]) -> str:
    return _value(item, "00080018") or _value(item, "0020000E")
