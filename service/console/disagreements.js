// The newest texts on which student and teacher differ, redacted before they were stored.

import { clock, element, onChange, percent, show, table } from "./dom.js";

const sure = (label, score) => [label, element("small", "", ` ${percent(score, 0)}`)];

export const showDisagreements = onChange(rows => show("disagreements", rows.length
  ? table("Redacted; the newest first, with how sure each is", ["Answered", "Teacher says", "Student says", "Text"],
    rows.map(({ time, text, teacher, teacher_score: ofTeacher, student, student_score: ofStudent }) => [clock(time),
      sure(teacher, ofTeacher), sure(student, ofStudent),
      text == null ? element("em", "quiet", "not kept") : element("span", "text", text)]))
  : element("p", "quiet", "None yet.")));
