// Find the sentence that a sentence is compared with: its other side, or its negation.
// It is null where the words alone do not tell: "right or left", or a finding that is counted, joined or denied.

const SIDE = /\b(left|right)\b/gi;

export function otherSide(text) {
  const sides = new Set((text.match(SIDE) ?? []).map((side) => side.toLowerCase()));
  if (sides.size !== 1) return null;
  return text.replace(SIDE, (side) => {
    const other = side.toLowerCase() === "left" ? "right" : "left";
    if (side === side.toUpperCase()) return other.toUpperCase();
    return side[0] === side[0].toUpperCase() ? other[0].toUpperCase() + other.slice(1) : other;
  });
}

const UNCLEAR = new RegExp(
  "\\b(no|not|nor|none|nothing|neither|without|never|hardly|barely|scarcely|and|or|but|little|few|fewer|less|least|" +
    "more|most|longer|only|one|two|three|four|five|six|seven|eight|nine|ten|several|many|multiple|both|\\d+)\\b",
  "i",
);

export function negation(text) {
  const [, there, no, rest] = /^(there (?:is|are))( no)? (.+)$/i.exec(text) ?? [];
  if (!there || UNCLEAR.test(rest)) return null;
  return no ? `${there} ${rest}` : `${there} no ${rest.replace(/^(an?|some|any) /i, "")}`;
}
